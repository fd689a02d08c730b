"""hf:// on the hub under test, which huggingface_hub's own client reads in its own test."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download

from zml.errors import AccessError, NotFoundError, ReadError, UnsupportedError, UsageError, ZmlError
from zml.testing.servers.faults import faults
from zml.testing.servers.hub import Hub, hub
from zml.testing.vfs_conformance import CASES, FILES, Case, Place, check
from zml.vfs import Checksum, Entry, File, FileSystem, Options, Vfs
from zml.vfs.hf import HubFileSystem

_WEIGHTS = bytes(range(256)) * (40 << 10)
_REPO = {
    "config.json": b'{"a": 1}',
    "model.safetensors": _WEIGHTS,
    "onnx/model.onnx": b"onnx",
    "tokenizer.json": b"{}",
}
_QUICK = Options(deadline=5.0, backoff=0.01)


@pytest.fixture(autouse=True)
def _as_if_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, cache or telemetry of who runs the test."""
    monkeypatch.setenv("HF_TOKEN", "")
    for name in ("HF_HUB_CACHE", "HF_HOME", "HF_TOKEN_PATH", "HF_XET_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "home" / name))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)


@pytest.fixture
def server() -> Iterator[Hub]:
    repos: dict[str, Mapping[str, Any]] = {
        "o/r": {"main": _REPO, "refs/pr/1": {"config.json": b"pr"}, "v/1": {"a.txt": b"v1"}},
        "datasets/o/d": {"main": {"train/a.parquet": b"PAR1"}},
        "o/gated": {"main": {"config.json": b"{}"}},
        "o/private": {"main": {"config.json": b"{}"}},
    }
    tokens = {"hf_member": ["o/gated", "o/private"], "hf_other": []}
    with hub(repos, gated=["o/gated"], private=["o/private"], tokens=tokens, page=3) as server:
        yield server


def _vfs(server: Hub | str, options: Options = _QUICK, **settings: Any) -> Vfs:
    endpoint = server if isinstance(server, str) else server.url
    return Vfs(options, schemes={"hf": lambda o: HubFileSystem(o, endpoint=endpoint, **settings)})


class _Newest(FileSystem):
    """The commit of now, not of when it was first met: the suite changes files under way."""

    def __init__(self, server: Hub, options: Options) -> None:
        self._server, self._options = server, options
        self._systems: list[FileSystem] = []
        self.renew()

    def renew(self) -> None:
        self._systems.append(HubFileSystem(self._options, endpoint=self._server.url))

    def open(self, url: str) -> File:
        return self._systems[-1].open(url)

    def stat(self, url: str) -> Entry:
        return self._systems[-1].stat(url)

    def list(self, url: str) -> Iterator[Entry]:
        return self._systems[-1].list(url)

    def walk(self, url: str) -> Iterator[Entry]:
        return self._systems[-1].walk(url)

    def close(self) -> None:
        for system in self._systems:
            system.close()


@pytest.fixture(scope="module", params=["remote", "cached", "offline"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    files = dict(FILES)
    system: _Newest | None = None
    cache = tmp_path_factory.mktemp("cache")
    options = Options(cache=cache if request.param == "cached" else None)

    def make(options: Options) -> FileSystem:
        nonlocal system
        if request.param == "offline":
            return HubFileSystem(options, cache=cache, offline=True)
        system = _Newest(server, options)
        return system

    def publish(changed: Mapping[str, bytes]) -> None:
        files.update(changed)
        server.push("o/r", "main", files)
        if request.param == "offline":
            # As if another program had downloaded it.
            snapshot_download("o/r", endpoint=server.url, cache_dir=cache, token=False)
            vfs.close()
        elif system is not None:
            system.renew()

    with hub({"o/r": {"main": files}}) as server, Vfs(options, schemes={"hf": make}) as vfs:
        publish({})
        yield Place(vfs, "hf://o/r", publish)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance(place: Place, case: Case) -> None:
    check(place, case)


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("hf://o/r@refs/pr/1/config.json", b"pr"),
        ("hf://o/r@refs%2Fpr%2F1/config.json", b"pr"),
        ("hf://o/r@v%2F1/a.txt", b"v1"),
        ("hf://o/r@main/onnx/model.onnx", b"onnx"),
        ("hf://models/o/r/config.json", b'{"a": 1}'),
        ("hf://datasets/o/d/train/a.parquet", b"PAR1"),
    ],
)
def test_revisions_and_kinds(server: Hub, url: str, content: bytes) -> None:
    with _vfs(server) as vfs:
        assert vfs.read(url) == content
        folder = url.rpartition("/")[0]
        assert {e.url: vfs.read(e.url) for e in vfs.walk(folder)}[url] == content
        assert vfs.stat(url).size == len(content)


def test_a_commit_is_read_without_asking_for_it(server: Hub) -> None:
    with _vfs(server) as vfs:
        assert vfs.read(f"hf://o/r@{server.commit('o/r')}/config.json") == b'{"a": 1}'
    assert not server.asked("/revision/")


def test_everything_is_of_the_commit_that_was_first_met(server: Hub) -> None:
    with _vfs(server) as vfs, ThreadPoolExecutor(8) as threads:
        list(threads.map(vfs.open, ["hf://o/r/config.json"] * 16))
        server.push("o/r", "main", {"config.json": b"new"})
        assert vfs.read("hf://o/r/config.json") == b'{"a": 1}'
        assert vfs.exists("hf://o/r/tokenizer.json")
        assert len(server.asked("/revision/")) == 1
        vfs.close()
        assert vfs.read("hf://o/r/config.json") == b"new"


def test_large_files_have_a_checksum_and_all_an_etag(server: Hub) -> None:
    blobs = server.repos["o/r"].commits[server.commit("o/r")]
    with _vfs(server) as vfs:
        for name in _REPO:
            blob, file = blobs[name], vfs.open(f"hf://o/r/{name}")
            sha = Checksum("sha256", bytes.fromhex(blob.sha256)) if blob.sha256 else None
            entry = vfs.stat(f"hf://o/r/{name}")
            for about in (file, entry):
                assert (about.size, about.etag, about.checksum) == (blob.size, blob.etag, sha)


def test_the_token_goes_to_the_hub_alone(server: Hub) -> None:
    with _vfs(server, token="hf_member") as vfs:
        assert vfs.read("hf://o/r/model.safetensors") == _WEIGHTS
        assert (
            vfs.read("hf://o/gated/config.json") == vfs.read("hf://o/private/config.json") == b"{}"
        )
        list(vfs.walk("hf://o/r"))
    sent = {
        r.host: {s.headers.get("authorization") for s in server.requests if s.host == r.host}
        for r in server.requests
    }
    assert sent == {"hub": {"Bearer hf_member"}, "cdn": {None}}


def test_links_of_a_mirror_are_followed_at_the_mirror(server: Hub) -> None:
    with _vfs(server, token="hf_other") as vfs:
        at, server.url = server.url, "http://hub.invalid"
        assert [entry.name for entry in vfs.list("hf://o/r")] == [
            "config.json",
            "model.safetensors",
            "onnx",
            "tokenizer.json",
        ]
        server.url = at


def test_names_behind_the_first_page_are_asked_for_by_name(server: Hub) -> None:
    with _vfs(server) as vfs:
        assert vfs.stat("hf://o/r/config.json").size == 8
        assert not server.asked("/paths-info/")
        assert vfs.stat("hf://o/r/tokenizer.json").size == 2
        assert not vfs.exists("hf://o/r/zzz")
        assert len(server.asked("/paths-info/")) == 2 and len(server.asked("/tree/")) == 1


def test_what_a_listing_lacks_is_not_asked_for(server: Hub) -> None:
    with _vfs(server) as vfs:
        list(vfs.list("hf://o/r"))
        before = len(server.requests)
        for url in ("hf://o/r/generation_config.json", "hf://o/r/chat_template.jinja"):
            assert not vfs.exists(url)
            with pytest.raises(NotFoundError):
                vfs.open(url)
        assert len(server.requests) == before


def test_an_address_that_expired_is_asked_for_again_by_one_thread(server: Hub) -> None:
    with _vfs(server) as vfs, vfs.open("hf://o/r/model.safetensors") as file:
        for _ in range(2):
            server.expire()
            with ThreadPoolExecutor(8) as threads:
                parts = threads.map(lambda i: file.read(i << 20, 1 << 20), range(10))
                assert b"".join(parts) == _WEIGHTS
    assert len(server.asked("/resolve/", "HEAD")) == 3


@pytest.mark.parametrize(
    ("url", "token", "kind", "said"),
    [
        (
            "hf://o/gated/config.json",
            None,
            AccessError,
            r"access to the model o/gated is given by its owners: ask for it at http://\S+/o/gated, then give a "
            "token of your account in HF_TOKEN",
        ),
        (
            "hf://o/gated/config.json",
            "hf_other",
            AccessError,
            r"the account of the token in \S+ does not have it: ask for it at http://\S+/o/gated",
        ),
        (
            "hf://o/private/config.json",
            None,
            NotFoundError,
            r"there is no model 'o/private' at http://\S+, or it is private: give a token",
        ),
        (
            "hf://o/none/config.json",
            "hf_other",
            NotFoundError,
            r"there is no model 'o/none' at http://\S+, or one that the token in \S+ cannot read",
        ),
        ("hf://datasets/o/none/a", None, NotFoundError, "there is no dataset 'o/none'"),
        ("hf://o/r/config.json", "hf_wrong", AccessError, "the hub does not accept the token in"),
        (
            "hf://o/r@none/config.json",
            None,
            NotFoundError,
            r"the model o/r has no branch, tag or commit 'none'; a \"/\" in a revision is written %2F",
        ),
        (
            f"hf://o/r@{'0' * 40}/config.json",
            None,
            NotFoundError,
            f"the model o/r has no branch, tag or commit '{'0' * 40}'",
        ),
        (
            f"hf://o/none@{'0' * 40}/config.json",
            None,
            NotFoundError,
            "there is no model 'o/none'",
        ),
        (
            "hf://o/r/model.safetensor",
            None,
            NotFoundError,
            r"there is no 'model.safetensor' in hf://o/r; it has model.safetensors, \.\.\.",
        ),
        (
            "hf://o/r@main/onnx/a/b",
            None,
            NotFoundError,
            r"there is no 'a' in hf://o/r@main/onnx; it has model.onnx$",
        ),
        ("hf://o/r/onnx", None, ReadError, "is a folder, expected a file"),
        ("hf://o/r", None, ReadError, "is a repository, expected a file of it"),
        ("hf://gpt2", None, UsageError, r"Expected hf://owner/name\[@revision\]\[/path\]"),
        ("hf://model/o/r/x", None, UsageError, "Type prefix must be plural"),
        ("hf://buckets/o/b/x", None, UnsupportedError, "buckets of the hub are not supported"),
    ],
)
@pytest.mark.parametrize("cached", [False, True], ids=["remote", "cached"])
def test_what_cannot_be_read_is_explained_in_a_line(
    server: Hub,
    tmp_path: Path,
    cached: bool,
    url: str,
    token: str | None,
    kind: type[ZmlError],
    said: str,
) -> None:
    options = Options(deadline=5.0, cache=tmp_path / "cache" if cached else None)
    with _vfs(server, options, token=token) as vfs, pytest.raises(kind, match=said) as error:
        vfs.open(url)
    assert str(error.value).startswith(f"{url}: ") and "\n" not in str(error.value)
    assert type(error.value) is kind


def test_names_that_lead_out_of_the_repository_are_refused(server: Hub) -> None:
    server.push("o/evil", "main", {"../../out.txt": b"x"})
    with (
        _vfs(server) as vfs,
        pytest.raises(ReadError, match=r"lists '\.\.', which is not in"),
    ):
        list(vfs.walk("hf://o/evil"))


def test_a_token_that_cannot_be_read_is_said(server: Hub, tmp_path: Path) -> None:
    Path(constants.HF_TOKEN_PATH).mkdir(parents=True)
    with _vfs(server) as vfs, pytest.raises(AccessError, match=r"the token in .* cannot be read: "):
        vfs.open("hf://o/r/config.json")


def test_what_is_no_hub_is_said(server: Hub) -> None:
    with _vfs(server.url + "/nothing") as vfs, pytest.raises(NotFoundError, match="HF_ENDPOINT"):
        vfs.open("hf://o/r/config.json")


def test_rate_limits_and_overload_pass(server: Hub) -> None:
    with _vfs(server) as vfs:
        for host, status in (("hub", 429), ("hub", 503), ("cdn", 429), ("cdn", 500)):
            server.refuse(3, status, host=host)
        assert vfs.read("hf://o/r/model.safetensors") == _WEIGHTS
        server.refuse(2)
        assert len(list(vfs.walk("hf://o/r"))) == 4
    assert [r.status for r in server.requests].count(429) == 8


def test_a_rate_limit_beyond_the_deadline_is_said_at_once(server: Hub) -> None:
    server.refuse(1, headers={"RateLimit": '"api";r=0;t=250'})
    with _vfs(server) as vfs, pytest.raises(ReadError, match="answered 429; it asks to wait 250 s"):
        vfs.open("hf://o/r/config.json")
    server.refuse(1, headers={"RateLimit": '"api";r=0;t=0'})
    with _vfs(server) as vfs:
        assert vfs.exists("hf://o/r/config.json")


@pytest.mark.parametrize("seed", range(12))
def test_faults_do_no_harm(server: Hub, seed: int) -> None:
    with (
        faults(
            server.cdn, seed=seed, cut=0.1, truncate=0.05, busy=0.1, error=0.03, wrong=0.02
        ) as cdn,
        faults(server.url, seed=seed, cut=0.1, truncate=0.05, busy=0.1, error=0.05) as front,
        _vfs(front.url, Options(deadline=20.0, backoff=0.01)) as vfs,
    ):
        server.cdn = cdn.url
        with vfs.open("hf://o/r/model.safetensors") as file, ThreadPoolExecutor(8) as threads:
            size = 128 << 10
            parts = threads.map(lambda i: file.read(i * size, size), range(len(_WEIGHTS) // size))
            assert b"".join(parts) == _WEIGHTS
        assert {entry.name for entry in vfs.list("hf://o/r@main")} == {
            p.split("/")[0] for p in _REPO
        }
