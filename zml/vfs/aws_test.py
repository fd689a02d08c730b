import json
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zml.errors import (
    AccessError,
    ReadError,
    UsageError,
)
from zml.testing import fresh
from zml.testing.servers.s3 import (
    S3,
    Answer,
    Asked,
    clear_environment,
    give_credentials,
    s3,
    write_profile,
)
from zml.vfs import Options, Vfs
from zml.vfs.aws import Aws
from zml.vfs.client import request_target

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


# Credentials. moto checks the signatures, where it knows who signs.


def test_credentials_of_the_environment(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = server.user("environment")
    give_credentials(monkeypatch, key, secret)
    odd = "odd/a b+c%20d?e#f&g=h~ü🙂'\"(i)!*.bin"
    server.put("models", odd, b"odd")
    with server.checked(), Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
        assert vfs.read(f"s3://models/{odd}") == b"odd"
        assert vfs.stat(_URL).size == len(_CONTENT)
        assert [entry.url for entry in vfs.list("s3://models/odd")] == [f"s3://models/{odd}"]
    give_credentials(monkeypatch, key, "another")
    with server.checked(), Vfs(_QUICK) as vfs:
        for method in (vfs.open, vfs.stat, lambda url: list(vfs.list(url))):
            with pytest.raises(AccessError, match=rf"s3://.*the secret key of {key} is not the"):
                method(_URL)


def test_a_signature_is_used_for_many_ranges(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    key, secret = server.user("ranges")
    give_credentials(monkeypatch, key, secret)
    with server.checked(), Vfs(_QUICK) as vfs, vfs.open(_URL) as file:
        for offset in range(0, len(_CONTENT), 50_000):
            assert file.read(offset, 50_000) == _CONTENT[offset : offset + 50_000]
    signatures = {
        asked.headers["authorization"] for asked in server.requests if "range" in asked.headers
    }
    assert len(signatures) == 1


def test_a_profile_with_an_endpoint(
    server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, secret = server.user("profile")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_PROFILE", "work")
    write_profile(
        tmp_path,
        {"aws_access_key_id": key, "aws_secret_access_key": secret},
        f"[profile work]\nregion = eu-west-3\nservices = here\n[services here]\ns3 =\n  endpoint_url = {server.url}\n",
    )
    with server.checked(), Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
    assert {(asked.signed_by, asked.region) for asked in server.requests} == {(key, "eu-west-3")}


def test_a_process_that_gives_no_credentials(
    server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile(tmp_path, {}, "[profile odd]\ncredential_process = /bin/echo hello\n")
    monkeypatch.setenv("AWS_PROFILE", "odd")
    with Vfs(_QUICK) as vfs, pytest.raises(AccessError, match="no credentials of AWS could be had"):
        vfs.open(_URL)


def test_a_profile_that_is_not_there(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(UsageError, match=r"configuration of AWS .*profile .*missing"):
        Vfs().open(_URL)


def test_web_identity(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token of the cluster")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", server.role("cluster"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with Vfs(_QUICK) as vfs:
        assert vfs.exists(_URL)  # moto's STS wants a signature for this, once it checks them
        with server.checked():
            assert vfs.read(_URL) == _CONTENT
    assert server.requests[0].method == "POST"
    assert "x-amz-security-token" in server.requests[-1].headers
    assert server.requests[-1].signed_by.startswith("ASIA")


def test_the_metadata_server_of_ec2(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
    assert server.requests[0].target == "/latest/api/token"
    assert server.requests[-1].signed_by == "test-key"
    assert server.requests[-1].headers["x-amz-security-token"] == "test-session-token"


def _container(keys: Iterator[str], seconds: float) -> Callable[[Asked], Answer | None]:
    """Credentials as ECS and EKS give them, others each time."""

    def answer(asked: Asked) -> Answer | None:
        if asked.target != "/credentials":
            return None
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        said = {
            "AccessKeyId": next(keys),
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(said))

    return answer


def test_a_containers_credentials_are_renewed_before_they_expire(
    server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/credentials")
    server.answer = _container(iter(["FIRST", "SECOND", "THIRD"]), 300)
    with Vfs(_QUICK) as vfs:
        assert vfs.exists(_URL)
        assert vfs.exists(_URL)
    keys = [asked.signed_by for asked in server.requests if asked.method == "HEAD"]
    assert len(set(keys)) == 2


@pytest.mark.parametrize("refusal", [(403, "InvalidAccessKeyId"), (400, "ExpiredToken")])
def test_credentials_that_are_refused_while_reading_are_looked_for_again(
    server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal: tuple[int, str]
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setattr("zml.vfs.aws._RENEWAL_SECONDS", 0.0)
    write_profile(tmp_path, {"aws_access_key_id": "OLD", "aws_secret_access_key": "x"})
    good = ["OLD"]
    server.answer = lambda asked: None if asked.signed_by in good else Answer.failure(*refusal)

    def give(key: str) -> None:
        write_profile(tmp_path, {"aws_access_key_id": key, "aws_secret_access_key": "x"})

    with Vfs(_QUICK) as vfs, vfs.open(_URL) as file:
        good[0] = "NEW"
        with pytest.raises(ReadError, match=_URL):
            file.read()
        give("NEW")
        assert file.read() == _CONTENT
        good[0] = "NEWER"
        with pytest.raises(AccessError, match=f"{_URL}: the .* NEW "):
            vfs.stat(_URL)
        give("NEWER")
        assert vfs.stat(_URL).size == len(_CONTENT)
        assert [entry.url for entry in vfs.list("s3://models/weights")] == [_URL]


def test_buckets_for_everybody(server: S3) -> None:
    server.open_to_all("models")
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
        server.answer = lambda asked: Answer.failure(403, "AccessDenied", "Access Denied")
        with pytest.raises(AccessError, match=r"without credentials: .*none were found in the env"):
            vfs.open(_URL)
    assert not any("authorization" in asked.headers for asked in server.requests)


def test_no_signatures_are_made_where_none_are_wanted(
    server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_credentials(monkeypatch)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    server.open_to_all("models")
    with Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
        server.answer = lambda asked: Answer.failure(403, "AccessDenied")
        with pytest.raises(AccessError, match="AWS_NO_SIGN_REQUEST is set: unset it"):
            vfs.stat(_URL)
    assert not any("authorization" in asked.headers for asked in server.requests)


# Regions and endpoints.


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (301, "PermanentRedirect", "header"),
        (400, "AuthorizationHeaderMalformed", "header"),
        (400, "AuthorizationHeaderMalformed", "body"),
        (400, "IllegalLocationConstraintException", "bucket"),
    ],
)
def test_a_bucket_of_another_region_is_found(
    server: S3, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    give_credentials(monkeypatch)
    monkeypatch.setenv("AWS_REGION", "us-west-2")

    def answer(asked: Asked) -> Answer | None:
        if asked.region == "ap-south-1":
            return None
        whole_bucket = asked.target == "/models/" and asked.method == "HEAD"
        known = said == "header" or (said == "bucket" and whole_bucket)
        headers = {"x-amz-bucket-region": "ap-south-1"} if known else {}
        more = {"Region": "ap-south-1"} if said == "body" else {}
        return Answer(status, headers, Answer.failure(status, code, **more).body)

    server.answer = answer
    for read in (
        lambda vfs: [entry.url for entry in vfs.walk("s3://models/weights")] == [_URL],
        lambda vfs: vfs.read(_URL) == _CONTENT,
        lambda vfs: vfs.stat(_URL).size == len(_CONTENT),
    ):
        server.requests.clear()
        with Vfs(_QUICK) as vfs:
            assert read(vfs) and read(vfs)
        regions = [asked.region for asked in server.requests]
        # Asked once, and kept.
        wrong = regions.count("us-west-2")
        assert 1 <= wrong <= 3 and regions == ["us-west-2"] * wrong + ["ap-south-1"] * (
            len(regions) - wrong
        )


def test_a_region_that_is_always_another_one_is_an_error(
    server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_credentials(monkeypatch)
    for more in ("x", ".example/"):
        server.answer = lambda asked, more=more: Answer.failure(  # type: ignore[misc]
            400, "AuthorizationHeaderMalformed", Region=asked.region + more
        )
        expected = "models is in another region: set AWS"
        with Vfs(_QUICK) as vfs, pytest.raises(ReadError, match=expected):
            list(vfs.list("s3://models"))


@pytest.mark.parametrize(
    ("bucket", "region", "environment", "config", "expected"),
    [
        ("b1b", "eu-west-1", {}, "", "https://b1b.s3.eu-west-1.amazonaws.com"),
        ("a.b", "eu-west-1", {}, "", "https://s3.eu-west-1.amazonaws.com/a.b"),
        ("b1b", "eu-west-1", {}, "path", "https://s3.eu-west-1.amazonaws.com/b1b"),
        ("b1b", "cn-north-1", {}, "", "https://b1b.s3.cn-north-1.amazonaws.com.cn"),
        (
            "b1b",
            "us-east-2",
            {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "",
            "https://b1b.s3-fips.dualstack.us-east-2.amazonaws.com",
        ),
        ("b1b", "auto", {"AWS_ENDPOINT_URL": "https://h:1/x/"}, "", "https://h:1/x/b1b"),
        ("b1b", "auto", {"AWS_ENDPOINT_URL": "http://h:1"}, "virtual", "http://b1b.h:1"),
        (
            "b1b",
            "auto",
            {"AWS_ENDPOINT_URL": "http://h", "AWS_ENDPOINT_URL_S3": "http://s3"},
            "",
            "http://s3/b1b",
        ),
        (
            "b1b",
            "eu-west-1",
            {"AWS_ENDPOINT_URL": "http://h", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "",
            "https://b1b.s3.eu-west-1.amazonaws.com",
        ),
    ],
)
def test_where_buckets_are(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bucket: str,
    region: str,
    environment: Mapping[str, str],
    config: str,
    expected: str,
) -> None:
    clear_environment(monkeypatch, tmp_path)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_PROFILE", "work")
    style = f"s3 =\n  addressing_style = {config}\n" if config else ""
    write_profile(tmp_path, {}, f"[profile work]\n{style}")
    assert Aws().url(bucket, region) == expected


def test_virtual_hosts(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, secret = server.user("virtual")
    give_credentials(monkeypatch, key, secret)
    monkeypatch.setenv("AWS_PROFILE", "work")
    write_profile(tmp_path, {}, "[profile work]\ns3 =\n  addressing_style = virtual\n")
    port = server.url.rpartition(":")[2]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://s3.amazonaws.com:{port}")
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **more: look_up(
            "127.0.0.1" if host == "models.s3.amazonaws.com" else host, *args, **more
        ),
    )
    with server.checked(), Vfs(_QUICK) as vfs:
        assert vfs.read(_URL) == _CONTENT
        assert [entry.url for entry in vfs.list("s3://models/weights")] == [_URL]
    assert {asked.headers["host"] for asked in server.requests} == {
        f"models.s3.amazonaws.com:{port}"
    }


def test_a_key_may_begin_with_a_slash() -> None:
    # Python's own server takes such a path for one with a single slash.
    assert request_target("https://models.s3.amazonaws.com//key?a=b") == "//key?a=b"


def test_an_endpoint_that_is_no_url(server: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "localhost:9000")
    with pytest.raises(UsageError, match=r"endpoint of S3 is 'localhost:9000' .*expected http://"):
        Vfs().open(_URL)
