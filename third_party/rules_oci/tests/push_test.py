"""Pushing, against a registry within the test."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from third_party.rules_oci.oci.private import push
from third_party.rules_oci.oci.private.credentials import Credentials
from third_party.rules_oci.oci.private.layout import INDEX, Layout, OciError
from third_party.rules_oci.oci.private.registry import Registry, RequestError
from third_party.rules_oci.tests.fake_registry import PASSWORD, USER, FakeRegistry
from third_party.rules_oci.tests.samples import build, index, layer

NAME = "team/image"
KNOWN = Credentials(USER, PASSWORD)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    yield registry
    registry.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An index of two images with three layers, one of them shared."""
    shared = layer(tmp_path / "shared.tar", "shared")
    images = []
    for architecture in ("amd64", "arm64"):
        own = layer(tmp_path / f"{architecture}.tar", architecture * 100000)
        images.append(build(tmp_path / architecture, [shared, own], architecture=architecture))
    return index(tmp_path / "index", *images, annotations={})


class Client:
    """A registry's client that does not sleep, and the times that it would have slept."""

    def __init__(self, server: FakeRegistry, credentials: Credentials | None = None) -> None:
        self.slept: list[float] = []
        self.registry = Registry(server.host, credentials, sleep=self.slept.append)


def test_an_index_arrives_whole(server: FakeRegistry, layout: Layout) -> None:
    report = push.push(layout, Client(server).registry, NAME, ["latest", "v1"])
    assert report.digest == layout.root["digest"]
    stored = server.manifests[NAME]
    images = {image["digest"] for image in layout.images()}
    assert stored.keys() == images | {report.digest, "latest", "v1"}
    assert stored["latest"] == (INDEX, layout.path(layout.root).read_bytes())
    assert len(server.blobs[NAME]) == len(report.uploaded) == 5
    assert server.requests["PUT upload"] == 5


def test_a_second_push_sends_nothing_but_manifests(server: FakeRegistry, layout: Layout) -> None:
    push.push(layout, Client(server).registry, NAME, [])
    report = push.push(layout, Client(server).registry, NAME, [])
    assert not report.uploaded
    assert len(report.present) == 5
    assert server.requests["PUT upload"] == 5


def test_a_blob_of_another_repository_is_mounted(server: FakeRegistry, layout: Layout) -> None:
    push.push(layout, Client(server).registry, "team/base", [])
    lost = next(iter(server.blobs["team/base"]))
    del server.blobs["team/base"][lost]
    report = push.push(layout, Client(server).registry, NAME, [], ["team/base"])
    assert list(report.uploaded) == [lost]
    assert len(report.mounted) == 4
    assert len(server.blobs[NAME]) == 5


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_challenge_is_answered(server: FakeRegistry, layout: Layout, auth: str) -> None:
    server.auth = auth
    push.push(layout, Client(server, KNOWN).registry, NAME, ["latest"], ["team/base"])
    assert "latest" in server.manifests[NAME]
    own, both = [f"repository:{NAME}:pull,push"], ["repository:team/base:pull"]
    assert sorted(server.scopes) == ([own, own + both] if auth == "bearer" else [])


def test_an_identity_token_is_exchanged(server: FakeRegistry, layout: Layout) -> None:
    server.auth = "bearer"
    push.push(layout, Client(server, Credentials(identity_token=PASSWORD)).registry, NAME, [])
    assert server.scopes == [[f"repository:{NAME}:pull,push"]]


def test_an_expired_token_is_renewed(server: FakeRegistry, layout: Layout) -> None:
    server.auth = "bearer"
    client = Client(server, KNOWN)
    push.push(layout, client.registry, NAME, [])
    server.valid_tokens = {"another"}
    push.push(layout, client.registry, NAME, ["again"])
    assert len(server.scopes) == 2
    assert "again" in server.manifests[NAME]


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("credentials", [None, Credentials(USER, "wrong")])
def test_without_the_right_password(
    server: FakeRegistry, layout: Layout, auth: str, credentials: Credentials | None
) -> None:
    server.auth = auth
    with pytest.raises(
        OciError, match=f"401 Unauthorized.*log in with `docker login {server.host}`"
    ):
        push.push(layout, Client(server, credentials).registry, NAME, [])
    assert not server.blobs


@pytest.mark.parametrize(
    "kind", ["HEAD blob", "POST upload", "PUT upload", "PUT manifest", "GET token"]
)
@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_what_passes_is_tried_again(
    server: FakeRegistry, layout: Layout, kind: str, status: int
) -> None:
    server.auth = "bearer"
    server.failures[kind] = [status, status]
    client = Client(server, KNOWN)
    push.push(layout, client.registry, NAME, ["latest"])
    assert "latest" in server.manifests[NAME]
    assert len(server.blobs[NAME]) == 5
    assert client.slept
    assert server.failures[kind] == []


def test_the_registry_says_how_long_to_wait(server: FakeRegistry, layout: Layout) -> None:
    server.failures["PUT manifest"] = [429]
    server.retry_after = "7"
    client = Client(server)
    push.push(layout, client.registry, NAME, [])
    assert client.slept == [7.0]


def test_an_upload_that_is_lost_begins_anew(server: FakeRegistry, layout: Layout) -> None:
    server.failures["PUT upload"] = [404]
    push.push(layout, Client(server).registry, NAME, [])
    assert server.requests["POST upload"] == 6
    assert len(server.blobs[NAME]) == 5


def test_uploads_follow_a_redirection(server: FakeRegistry, layout: Layout) -> None:
    server.auth, server.redirect_uploads = "basic", True
    push.push(layout, Client(server, KNOWN).registry, NAME, [])
    assert len(server.blobs[NAME]) == 5


def test_a_token_is_not_shown_to_another_host(layout: Layout, server: FakeRegistry) -> None:
    server.auth = "basic"
    other = Client(server, KNOWN).registry
    other.host = "registry.example"  # what is reached now is another host than the registry's
    with pytest.raises(RequestError, match="401"):
        push.push(layout, other, NAME, [])


def test_a_registry_that_stays_away_is_given_up(server: FakeRegistry, layout: Layout) -> None:
    server.failures["HEAD blob"] = [503] * 1000
    with pytest.raises(
        RequestError, match=r"HEAD http://127.0.0.1:\d+/v2/team/image/blobs/sha256:\w+: 503 Service"
    ):
        push.push(layout, Client(server).registry, NAME, [])


def test_what_is_refused_is_not_tried_again(server: FakeRegistry, layout: Layout) -> None:
    server.failures["PUT manifest"] = [403]
    with pytest.raises(
        RequestError, match=r"403 Forbidden \(TEST: as asked\); may this user push there"
    ):
        push.push(layout, Client(server).registry, NAME, [])
    assert server.requests["PUT manifest"] == 1


def test_nobody_listens() -> None:
    registry = Registry("127.0.0.1:1", None, sleep=lambda _: None)
    with pytest.raises(RequestError, match="Connection refused"):
        registry.request("GET", "/v2/", "")


def test_schemes_of_hosts() -> None:
    def address(host: str, insecure: bool = False) -> str:
        return Registry(host, None, insecure).address

    assert address("registry.example") == "https://registry.example"
    assert address("registry.example:80", insecure=True) == "http://registry.example:80"
    assert address("localhost:5000") == "http://localhost:5000"
    assert address("127.0.0.1") == "http://127.0.0.1"


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        ("image", "expected HOST/NAME, such as localhost:5000/team/image"),
        ("team/image", "expected HOST/NAME"),
        ("localhost:5000/team/image:latest", "without a tag"),
        ("localhost:5000/Team", "expected lower-case letters"),
    ],
)
def test_a_wrong_repository(repository: str, message: str) -> None:
    with pytest.raises(OciError, match=message):
        push.split(repository)


def test_a_wrong_tag(server: FakeRegistry, layout: Layout) -> None:
    with pytest.raises(OciError, match="tag 'a b': expected at most 128 letters"):
        push.push(layout, Client(server).registry, NAME, ["a b"])


def test_the_command_line(
    server: FakeRegistry, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from third_party.rules_oci.oci.private import cli

    server.auth = "bearer"
    entry = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {server.host: entry}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "tags").write_text("latest\nv1\n")
    arguments = [
        f"--repository={server.host}/{NAME}",
        f"--remote_tags_file={tmp_path / 'tags'}",
        "-t",
        "v2",
    ]
    cli.run(["push", str(layout.folder), *arguments])
    out, err = capsys.readouterr()
    assert out == f"{server.host}/{NAME}@{layout.root['digest']}\n"
    assert "5 blobs sent" in err and "tags: latest, v1, v2" in err
    assert server.manifests[NAME].keys() >= {"latest", "v1", "v2"}
    with pytest.raises(
        OciError, match="the target names no repository: give --repository=HOST/NAME"
    ):
        cli.run(["push", str(layout.folder)])
