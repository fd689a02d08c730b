import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

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
from zml.testing.servers.gcs import Asked, Gcs, gcs
from zml.testing.vfs_conformance import CASES, FILES, Case, Place, check
from zml.vfs import Checksum, Options, Vfs
from zml.vfs.checksum import Verifier

# Beyond the emulator, which has neither pages, nor preconditions, nor tokens, zml.testing.servers.gcs does what the
# service documents for them.

_QUICK = Options(deadline=20, backoff=0.01)
_CONTENT = fresh.generator().bytes(300_000)
_NAME = "weights/model.safetensors"
_URL = f"gs://models/{_NAME}"
type _Said = tuple[int, dict[str, str], bytes] | None


@pytest.fixture(scope="module")
def running() -> Iterator[Gcs]:
    with gcs() as server:
        server.bucket("models")
        server.put("models", _NAME, _CONTENT)
        yield server


@pytest.fixture
def server(running: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gcs]:
    """With nothing of this machine's in the environment, no credentials, and no metadata server."""
    _isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", f"{running.url}/storage/v1/")
    running.requests.clear()
    yield running
    running.tokens = None
    running.answer = lambda asked: None


def _isolate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    prefixes = ("GOOGLE_", "GCE_", "CLOUDSDK_", "STORAGE_EMULATOR")
    for name in list(os.environ):
        if name.startswith(prefixes) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def _tokens(server: Gcs, path: str, tokens: Iterator[str], seconds: int = 3600) -> None:
    """Gives a token at each request of a path. The storage takes the last one."""

    def answer(asked: Asked) -> _Said:
        if asked.target != path:
            return None
        token = next(tokens)
        server.tokens = {token}
        said = {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}
        return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()

    server.answer = answer
    server.tokens = set()


def _bearers(server: Gcs) -> list[str]:
    found = [asked.headers.get("authorization", "") for asked in server.requests]
    return [each.removeprefix("Bearer ") for each in found if each.startswith("Bearer ")]


def _service_account(server: Gcs, path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    info = {
        "type": "service_account",
        "client_email": "reader@project.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "token_uri": f"{server.url}/token",
    }
    path.write_text(json.dumps(info))


def _user(server: Gcs, monkeypatch: pytest.MonkeyPatch, path: Path, **more: str) -> None:
    # A login's file does not say where tokens are: google-auth has the address.
    monkeypatch.setattr(
        "google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{server.url}/token"
    )
    info = {
        "type": "authorized_user",
        "client_id": "gcloud",
        "client_secret": "s",
        "refresh_token": "refresh",
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(info))


# The conformance suite.


@pytest.fixture(scope="module")
def place(running: Gcs) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _isolate(monkeypatch, Path("/nowhere"))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.host)
        running.bucket("conformance")

        def publish(files: Mapping[str, bytes]) -> None:
            for path, content in files.items():
                running.put("conformance", f"some/folder/{path}", content)

        publish(FILES)
        with Vfs(_QUICK) as vfs:
            yield Place(vfs, "gs://conformance/some/folder", publish)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance(place: Place, case: Case) -> None:
    check(place, case)


# Credentials.


def test_a_service_account(server: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _service_account(server, tmp_path / "key.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "pays")
    _tokens(server, "/token", iter(["one"]))
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
        assert [entry.url for entry in vfs.list("gs://models/weights")] == [_URL]
    assert set(_bearers(server)) == {"one"}
    assert {asked.headers.get("x-goog-user-project") for asked in server.requests[1:]} == {"pays"}
    asked = parse_qs(server.requests[0].body.decode())
    assert asked["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


def test_the_login_of_gcloud(server: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / ".config/gcloud/application_default_credentials.json"
    _user(server, monkeypatch, path, quota_project_id="mine")
    _tokens(server, "/token", iter(["one"]))
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
    assert parse_qs(server.requests[0].body.decode())["refresh_token"] == ["refresh"]
    assert server.requests[-1].headers["x-goog-user-project"] == "mine"


def test_a_token_that_is_refused_while_reading_is_renewed(
    server: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _user(server, monkeypatch, tmp_path / "user.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "user.json"))
    monkeypatch.setattr("zml.vfs.google._RENEWAL_SECONDS", 0.0)
    _tokens(server, "/token", iter(["one", "two", "three"]))
    with Vfs(_QUICK) as vfs, vfs.open(_URL) as file:
        assert file.read(0, 1000) == _CONTENT[:1000]
        server.tokens = {"another"}
        assert file.read() == _CONTENT
        server.tokens = {"another"}
        assert vfs.stat(_URL).size == len(_CONTENT)
    assert list(dict.fromkeys(_bearers(server))) == ["one", "two", "three"]


def test_a_token_that_expires_soon_is_renewed(
    server: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _user(server, monkeypatch, tmp_path / "user.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "user.json"))
    _tokens(server, "/token", iter(["one", "two", "three"]), seconds=60)
    with Vfs(_QUICK) as vfs, vfs.open(_URL) as file:
        assert file.read() == _CONTENT
    assert _bearers(server) == ["one", "two"]


def test_a_login_that_has_ended(
    server: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _user(server, monkeypatch, tmp_path / "user.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "user.json"))
    said = b'{"error": "invalid_grant", "error_description": "Token has been revoked."}'
    server.answer = lambda asked: (400, {}, said) if asked.target == "/token" else None
    with (
        Vfs(_QUICK) as vfs,
        pytest.raises(AccessError, match=r"user\.json: .*revoked.*log in again"),
    ):
        vfs.open(_URL)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"type": "novel"}', "'novel'; expected JSON whose type is one of service_account, auth"),
        ('{"type": "service_account"}', "cannot be used: .*client_email"),
        ('{"type": "authorized_user"}', "cannot be used: .*refresh_token"),
    ],
)
def test_files_that_hold_no_credentials(
    server: Gcs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: str | None,
    expected: str,
) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with Vfs(_QUICK) as vfs, pytest.raises(UsageError, match=rf"^{path}: .*{expected}"):
        vfs.open(_URL)


def test_without_google_auth(server: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _user(server, monkeypatch, tmp_path / "user.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "user.json"))
    monkeypatch.setitem(sys.modules, "google.oauth2.credentials", None)
    with Vfs(_QUICK) as vfs, pytest.raises(UnsupportedError, match="pip install google-auth"):
        vfs.open(_URL)


# The metadata server.

_TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"


def _machine(server: Gcs, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    monkeypatch.delenv("NO_GCE_CHECK")
    monkeypatch.setenv("GCE_METADATA_HOST", server.host)
    tokens = server.answer
    server.answer = lambda asked: (200, headers, b"") if asked.target == "/" else tokens(asked)


def test_the_account_of_a_machine(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    _tokens(server, _TOKEN, iter(["one", "two"]))
    _machine(server, monkeypatch, {"Metadata-Flavor": "Google"})
    monkeypatch.setattr("zml.vfs.google._RENEWAL_SECONDS", 0.0)
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "pays")
    with Vfs(_QUICK) as vfs, vfs.open(_URL) as file:
        assert file.read() == _CONTENT
        server.tokens = {"another"}
        assert file.read() == _CONTENT
    assert list(dict.fromkeys(_bearers(server))) == ["one", "two"]
    assert server.requests[1].headers["metadata-flavor"] == "Google"
    assert server.requests[-1].headers["x-goog-user-project"] == "pays"


def test_a_metadata_server_that_fails_later(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    _tokens(server, _TOKEN, iter(["one"]), seconds=1)
    _machine(server, monkeypatch, {"Metadata-Flavor": "Google"})
    with Vfs(_QUICK) as vfs:
        tokens, count = server.answer, iter(range(9))
        server.answer = lambda asked: (
            (503, {}, b"") if asked.target == _TOKEN and next(count) else tokens(asked)
        )
        with pytest.raises(
            AccessError, match=r"from the metadata server 127\.0\.0\.1.*answered 503"
        ):
            vfs.open(_URL)


def test_a_metadata_server_that_comes_up_late(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    _tokens(server, _TOKEN, iter(["one"]))
    _machine(server, monkeypatch, {"Metadata-Flavor": "Google"})
    tokens, up = server.answer, list[bool]()
    server.answer = lambda asked: (
        (503, {}, b"") if asked.target == "/" and not up else tokens(asked)
    )
    with Vfs(_QUICK) as vfs:
        with pytest.raises(AccessError, match="without credentials"):
            vfs.open(_URL)
        up.append(True)
        assert vfs.read(_URL) == _CONTENT


def test_a_machine_without_an_account(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda asked: (404, {}, b"") if asked.target == _TOKEN else None
    _machine(server, monkeypatch, {"Metadata-Flavor": "Google"})
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
    assert not _bearers(server)


def test_a_metadata_server_of_another_cloud(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    _tokens(server, _TOKEN, iter(["zero"]))
    _machine(server, monkeypatch, {})
    with Vfs(_QUICK) as vfs, pytest.raises(AccessError, match="without credentials"):
        vfs.open(_URL)


def test_nobody_waits_for_a_metadata_server_that_does_not_answer(
    server: Gcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_GCE_CHECK")
    monkeypatch.setattr("zml.vfs.google._PROBE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{silent.getsockname()[1]}")
        read: list[bytes] = []
        with Vfs(_QUICK) as vfs:
            thread = threading.Thread(target=lambda: read.append(vfs.read(_URL)))
            thread.start()
            # The listener never accepts: without a limit this would last for ever.
            thread.join(60)
        assert read == [_CONTENT]


def test_buckets_for_everybody(server: Gcs) -> None:
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
        assert not _bearers(server)
        server.tokens = {"secret"}
        expected = "without credentials .*GOOGLE_APPLICATION_CREDENTIALS.*401: Anonymous caller"
        for method in (vfs.open, vfs.stat, lambda url: list(vfs.walk(url))):
            with pytest.raises(AccessError, match=f"^{_URL}: .*{expected}"):
                method(_URL)


def test_an_emulator_gets_no_token_of_worth(
    server: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / ".config/gcloud/application_default_credentials.json"
    _user(server, monkeypatch, path)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
    assert not _bearers(server)


# Listings, versions, errors.


def test_listings_of_many_pages(server: Gcs) -> None:
    server.bucket("many")
    names = [f"x/{number:04}.bin" for number in range(1500)]
    names += [f"x/folder{number:04}/f" for number in range(900)]
    for name in [*names, "x/", "x/folder0000/", "y"]:
        server.put("many", name, b"")
    with Vfs(_QUICK) as vfs:
        walked = [entry.url for entry in vfs.walk("gs://many/x")]
        assert walked == [f"gs://many/{name}" for name in names]
        assert len(server.requests) == 3
        listed = [entry.url for entry in vfs.list("gs://many/x")]
        assert listed == [f"gs://many/{name.removesuffix('f')}" for name in names]
        assert vfs.stat("gs://many/x").is_folder
        assert [entry.name for entry in vfs.list("gs://many")] == ["x", "y"]


def test_no_name_leads_out_of_its_folder(server: Gcs) -> None:
    # The emulator refuses such names; the service does not.
    names = ["x/../../etc/a", "x//a", "x/./a", "x/..", "x/a..b", "x/a\0", "x/\ud800"]
    page = {"items": [{"name": name, "size": "1"} for name in names], "prefixes": ["x//", "x/../"]}
    server.answer = lambda asked: (200, {}, json.dumps(page).encode())
    with Vfs(_QUICK) as vfs:
        for method in (vfs.list, vfs.walk):
            assert [entry.url for entry in method("gs://names/x")] == ["gs://names/x/a..b"]


def test_an_object_that_is_replaced_is_not_mixed(server: Gcs) -> None:
    first = server.put("models", "replaced.bin", b"first")
    with Vfs(_QUICK) as vfs, vfs.open("gs://models/replaced.bin") as file:
        assert (file.etag, file.read(0, 2)) == (first, b"fi")
        second = server.put("models", "replaced.bin", b"other")
        with pytest.raises(ReadError, match="changed while it was read: the server answered 412"):
            file.read(2, 2)
        assert vfs.stat("gs://models/replaced.bin").etag == second


@pytest.mark.parametrize(
    ("url", "answer", "kind", "expected"),
    [
        (
            _URL,
            (403, b'{"error": {"message": "No."}}'),
            AccessError,
            r"objects.get .*\[403: No\.\]",
        ),
        (_URL, (404, b'{"error": {"message": "No such bucket"}}'), NotFoundError, "No such bucket"),
        (_URL, (404, b""), NotFoundError, "no such file in the bucket models, or no such bucket"),
        (_URL, (200, b"<html>"), ReadError, "no JSON"),
        (_URL, (200, b"[]"), ReadError, r"has not what .* documents: \[\]"),
        (_URL, (200, b"{}"), ReadError, "has not what"),
        (_URL, (200, b'{"size": "much"}'), ReadError, "has not what"),
        (_URL, (200, b'{"size": "1", "updated": 7}'), ReadError, "has not what"),
        (_URL, (400, b'{"error": {"message": "Odd."}}'), ReadError, "answered 400: Odd"),
        (_URL, (200, b'{"contentEncoding": "gzip"}'), UnsupportedError, "Content-Encoding gzip"),
        ("gs://models/weights/", None, NotFoundError, "a folder, expected a file"),
        ("gs://models", None, NotFoundError, "a folder, expected a file"),
        ("gs:///x", None, UsageError, "'' is no bucket's name"),
        ("gs://UPPER/x", None, UsageError, "'UPPER' is no bucket's name"),
    ],
)
def test_refusals_are_explained(
    server: Gcs,
    url: str,
    answer: tuple[int, bytes] | None,
    kind: type[Exception],
    expected: str,
) -> None:
    server.answer = lambda asked: None if answer is None else (answer[0], {}, answer[1])
    with Vfs(_QUICK) as vfs:
        with pytest.raises(kind, match=f"^{url}: .*{expected}") as caught:
            vfs.open(url)
        assert type(caught.value) is kind


@pytest.mark.parametrize(
    "page", [{"items": [{}]}, {"items": 1}, {"prefixes": [1]}, {"items": [{"name": "a"}]}]
)
def test_listings_that_are_none(server: Gcs, page: object) -> None:
    server.answer = lambda asked: (200, {}, json.dumps(page).encode())
    with Vfs(_QUICK) as vfs, pytest.raises(ReadError, match=r"gs://.*: .* has not what"):
        list(vfs.list("gs://models"))


def test_a_listing_that_does_not_go_on(server: Gcs) -> None:
    server.answer = lambda asked: (200, {}, b'{"nextPageToken": "same"}')
    with Vfs(_QUICK) as vfs, pytest.raises(ReadError, match=r"gs://models: .* does not go on"):
        list(vfs.list("gs://models"))
    assert len(server.requests) == 2


def test_checksums_are_there_and_find_what_is_damaged(
    server: Gcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faults(server.url, corrupt=1.0, only=lambda _, target: "alt=media" in target) as proxy:
        for endpoint in (server.url, proxy.url):
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
            with Vfs(_QUICK) as vfs, vfs.open(_URL) as file:
                assert file.checksum is not None and file.checksum.algorithm == "crc32c"
                assert file.checksum == vfs.stat(_URL).checksum
                verifier = Verifier(file.checksum, file.size, file.url)
                verifier.add(0, memoryview(file.read()))
            if endpoint == server.url:
                assert verifier.finish()
            else:
                with pytest.raises(CorruptedError, match=f"{_URL}: the crc32c of"):
                    verifier.finish()


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"crc32c": "", "md5Hash": "AAE="}, Checksum("md5", b"\0\1")),
        ({"crc32c": "?", "md5Hash": ""}, None),
    ],
)
def test_other_checksums(server: Gcs, meta: dict[str, str], expected: Checksum | None) -> None:
    server.put("models", "other.bin", b"x", **meta)
    with Vfs(_QUICK) as vfs:
        assert vfs.stat("gs://models/other.bin").checksum == expected


def test_faults_of_the_network(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(fresh.generator().integers(1 << 30))
    with faults(server.url, seed=seed, cut=0.15, truncate=0.15, busy=0.1, error=0.1) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        with Vfs(_QUICK) as vfs:
            for _ in range(5):
                with vfs.open(_URL) as file:
                    parts = [file.read(at, 30_000) for at in range(0, len(_CONTENT), 30_000)]
                assert b"".join(parts) == _CONTENT
                assert [entry.url for entry in vfs.walk("gs://models/weights")] == [_URL]
        assert proxy.counts.total() > proxy.counts["requests"]
