import base64
import hashlib
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from zml.errors import (
    AccessError,
    CorruptedError,
    NotFoundError,
    ReadError,
    UnsupportedError,
    UsageError,
)
from zml.testing import fresh
from zml.testing.servers.faults import faults
from zml.testing.servers.s3 import (
    S3,
    Answer,
    clear_environment,
    give_credentials,
    s3,
)
from zml.testing.vfs_conformance import CASES, FILES, Case, Place, check
from zml.vfs import Checksum, Entry, Options, Vfs
from zml.vfs.checksum import Verifier
from zml.vfs.crc import CRC64NVME
from zml.vfs.s3 import checksum_of

_QUICK = Options(deadline=20, backoff=0.01)
_CONTENT = fresh.generator().bytes(300_000)
_KEY = "weights/model.safetensors"
_URL = f"s3://models/{_KEY}"


@pytest.fixture(scope="module")
def running() -> Iterator[S3]:
    with s3() as server:
        server.bucket("models")
        server.put("models", _KEY, _CONTENT)
        yield server


@pytest.fixture
def server(running: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """With nothing of this machine's in the environment, and no credentials."""
    clear_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", running.url)
    running.requests.clear()
    yield running
    running.answer = lambda asked: None


# The conformance suite.


@pytest.fixture(scope="module")
def place(running: S3) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clear_environment(monkeypatch, Path("/nowhere"))
        give_credentials(monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", running.url)
        running.bucket("conformance")

        def publish(files: Mapping[str, bytes]) -> None:
            for path, content in files.items():
                running.put("conformance", f"some/folder/{path}", content)

        publish(FILES)
        with Vfs(_QUICK) as vfs:
            yield Place(vfs, "s3://conformance/some/folder", publish)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance(place: Place, case: Case) -> None:
    check(place, case)


# Listings.


def test_listings_of_many_pages(server: S3) -> None:
    server.bucket("many")
    keys = [f"x/{number:04}.bin" for number in range(1500)]
    keys += [f"x/folder{number:04}/f" for number in range(900)]
    for key in [*keys, "x/", "x/folder0000/", "y"]:
        server.put("many", key, b"")
    server.requests.clear()
    with Vfs(_QUICK) as vfs:
        assert [entry.url for entry in vfs.walk("s3://many/x")] == [f"s3://many/{k}" for k in keys]
        assert len(server.requests) == 3
        listed = [entry.url for entry in vfs.list("s3://many/x")]
        assert listed == [f"s3://many/{key.removesuffix('f')}" for key in keys]
        assert vfs.stat("s3://many/x").is_folder
        assert [entry.name for entry in vfs.list("s3://many")] == ["x", "y"]


def test_no_name_leads_out_of_its_folder(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    give_credentials(monkeypatch)
    server.bucket("names")
    for name in ("x/../../etc/a", "x//a", "x/./a", "x/..", "x/a..b", "/x/a"):
        server.put("names", name, b"content")
    with Vfs(_QUICK) as vfs:
        assert [entry.url for entry in vfs.walk("s3://names/x")] == ["s3://names/x/a..b"]
        assert [entry.url for entry in vfs.list("s3://names/x")] == ["s3://names/x/a..b"]
        assert [entry.url for entry in vfs.list("s3://names")] == ["s3://names/x/"]
        for name in ("x/../../etc/a", "x//a", "/x/a"):
            assert vfs.read(f"s3://names/{name}") == b"content"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult>&b;</ListBucketResult>', "document type"),
        ("<ListBucketResult>", "cannot be read"),
        ("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", "is cut"),
        (
            "<R><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></R>",
            "is cut",
        ),
    ],
)
def test_listings_that_are_none(server: S3, body: str, expected: str) -> None:
    server.answer = lambda asked: Answer(200, {}, body)
    with Vfs(_QUICK) as vfs, pytest.raises(ReadError, match=f"s3://models: .*{expected}"):
        list(vfs.list("s3://models"))
    assert len(server.requests) <= 4


@pytest.mark.parametrize("quoted", [True, False])
def test_listings_of_other_servers(server: S3, quoted: bool) -> None:
    key = "a/50%25+1 x" if quoted else "a/50%+1 x"
    server.answer = lambda asked: Answer(
        200,
        {},
        f"<R>{'<EncodingType>url</EncodingType>' if quoted else ''}<Contents><Key>{key}</Key><Size>x</Size>"
        "<LastModified>today</LastModified></Contents></R>",
    )
    name = "50% 1 x" if quoted else "50%+1 x"
    with Vfs(_QUICK) as vfs:
        assert list(vfs.list("s3://models/a")) == [Entry(f"s3://models/a/{name}")]


# Errors.


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        (Answer.failure(404, "NoSuchBucket"), NotFoundError, "no bucket models at http"),
        (Answer.failure(404, "NoSuchKey"), NotFoundError, "no such file in the bucket models"),
        (
            Answer.failure(403, "AccessDenied", "No."),
            AccessError,
            r"AKIATEST: .*ListBucket.*No\.\]",
        ),
        (Answer.failure(400, "ExpiredToken"), AccessError, "AKIATEST have expired: get new"),
        (Answer.failure(400, "InvalidToken"), AccessError, "set AWS_SESSION_TOKEN to theirs"),
        (Answer.failure(403, "InvalidAccessKeyId"), AccessError, "AKIATEST is not known at http"),
        (Answer.failure(403, "SignatureDoesNotMatch"), AccessError, "secret key of AKIATEST"),
        (
            Answer.failure(403, "RequestTimeTooSkewed"),
            AccessError,
            r"clock .*\(the server's: .* GMT\): set it",
        ),
        (Answer.failure(403, "InvalidObjectState"), AccessError, "archived"),
        (Answer.failure(403, "Novel", "Why."), AccessError, r"answered 403 Novel \[Novel: Why"),
        (Answer.failure(400, "Novel"), ReadError, "answered 400 Novel"),
        (Answer(404), NotFoundError, "no such file"),
    ],
)
def test_refusals_are_explained(
    server: S3,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    kind: type[ReadError],
    expected: str,
) -> None:
    give_credentials(monkeypatch)
    server.answer = lambda asked: answer
    with Vfs(_QUICK) as vfs:
        with pytest.raises(kind, match=f"^{_URL}: .*{expected}") as caught:
            vfs.open(_URL)
        assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("url", "kind", "expected"),
    [
        ("s3:///key", UsageError, "'' is no bucket's name"),
        ("s3://a b/key", UsageError, "'a b' is no bucket's name"),
        ("s3://arn:aws:s3:us-east-1:1:accesspoint/x/key", UnsupportedError, "access points by ARN"),
        ("s3://name--use1-az4--x-s3/key", UnsupportedError, "directory buckets"),
        ("s3://models/weights/", NotFoundError, "a folder, expected a file"),
        ("s3://models", NotFoundError, "a folder, expected a file"),
    ],
)
def test_urls_that_name_no_file(server: S3, url: str, kind: type[Exception], expected: str) -> None:
    with Vfs(_QUICK) as vfs, pytest.raises(kind, match=f"^{url}: .*{expected}"):
        vfs.open(url)


def test_botocore_is_imported_for_s3_alone() -> None:
    code = (
        "import sys, zml.vfs; vfs = zml.vfs.Vfs(); vfs.exists('/tmp'); "
        "assert not {'botocore', 'google.auth', 'zml.vfs.s3'} & set(sys.modules); "
        "vfs.system('s3://b/k'); assert 'botocore' in sys.modules"
    )
    path = os.pathsep.join([*filter(None, sys.path), str(Path.cwd())])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})


def test_without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(UnsupportedError, match="s3:// needs the package botocore: pip install"):
        Vfs().open(_URL)


# Content.


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC64NVME", "SHA256"])
def test_checksums_are_there_and_find_what_is_damaged(
    server: S3, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    give_credentials(monkeypatch)
    digest = {
        "CRC32": zlib.crc32(_CONTENT).to_bytes(4, "big"),
        "CRC64NVME": CRC64NVME.compute(memoryview(_CONTENT)).to_bytes(8, "big"),
        "SHA256": hashlib.sha256(_CONTENT).digest(),
    }[algorithm]
    stored = algorithm, base64.b64encode(digest).decode()
    server.put("models", "checked.bin", _CONTENT, stored)
    url = "s3://models/checked.bin"
    with faults(server.url, corrupt=1.0, only=lambda method, _: method == "GET") as proxy:
        for endpoint in (server.url, proxy.url):
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
            with Vfs(_QUICK) as vfs, vfs.open(url) as file:
                assert (
                    file.checksum == Checksum(algorithm.lower(), digest) == vfs.stat(url).checksum
                )
                verifier = Verifier(file.checksum, file.size, file.url)
                verifier.add(0, memoryview(file.read()))
            if endpoint == server.url:
                assert verifier.finish()
            else:
                with pytest.raises(CorruptedError, match=f"{url}: the {algorithm.lower()} of"):
                    verifier.finish()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-amz-checksum-sha256": "AAE="}, Checksum("sha256", b"\0\1")),
        (
            {"x-amz-checksum-crc32c": "AAE=", "x-amz-checksum-type": "FULL_OBJECT"},
            Checksum("crc32c", b"\0\1"),
        ),
        ({"x-amz-checksum-crc32c": "AAE=", "x-amz-checksum-type": "COMPOSITE"}, None),
        ({"x-amz-checksum-sha256": "AAE=-3"}, None),
        ({"x-amz-checksum-crc32": "no"}, None),
        ({}, None),
    ],
)
def test_checksums_of_the_whole_object_alone(
    headers: dict[str, str], expected: Checksum | None
) -> None:
    assert checksum_of(headers) == expected


def test_an_object_that_is_replaced_is_not_mixed(
    server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_credentials(monkeypatch)
    server.put("models", "replaced.bin", b"first")
    with Vfs(_QUICK) as vfs, vfs.open("s3://models/replaced.bin") as file:
        assert file.read(0, 2) == b"fi"
        server.put("models", "replaced.bin", b"other")
        with pytest.raises(ReadError, match="changed while it was read: the server answered 412"):
            file.read(2, 2)
    assert server.requests[-1].headers["if-match"] == file.etag


def test_faults_of_the_network(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = server.user("faults")
    give_credentials(monkeypatch, key, secret)
    rates: dict[str, Any] = {"cut": 0.15, "truncate": 0.15, "busy": 0.1, "error": 0.1}
    with faults(server.url, seed=int(fresh.generator().integers(1 << 30)), **rates) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        with server.checked(), Vfs(_QUICK) as vfs:
            for _ in range(5):
                with vfs.open(_URL) as file:
                    parts = [file.read(at, 30_000) for at in range(0, len(_CONTENT), 30_000)]
                assert b"".join(parts) == _CONTENT
                assert [entry.url for entry in vfs.walk("s3://models/weights")] == [_URL]
        assert proxy.counts.total() > proxy.counts["requests"]
