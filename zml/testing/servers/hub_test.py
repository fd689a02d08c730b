"""The hub under test, read by huggingface_hub's own client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from zml.testing.servers.hub import Hub, hub

_REPO = {
    "config.json": b'{"a": 1}',
    "a b/ü.txt": b"text",
    "model.safetensors": bytes(range(256)) * 64,
} | {f"more/{i:02}.txt": b"x" * i for i in range(23)}
_TOKENS = {"hf_member": ["o/gated", "o/private"], "hf_other": []}


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    repos = {
        "o/r": {"main": _REPO, "refs/pr/1": {"config.json": b"{}"}},
        "datasets/o/d": {"main": {"train/a.parquet": b"PAR1"}},
        "o/gated": {"main": {"config.json": b"{}"}},
        "o/private": {"main": {"config.json": b"{}"}},
    }
    with hub(repos, gated=["o/gated"], private=["o/private"], tokens=_TOKENS, page=10) as server:
        yield server


def _api(server: Hub, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=server.url, token=token)


def test_revisions_are_commits(server: Hub) -> None:
    api = _api(server)
    commit = server.commit("o/r")
    info = api.model_info("o/r")
    assert (info.sha, info.private, info.gated) == (commit, False, False)
    assert [s.rfilename for s in info.siblings or ()] == sorted(_REPO)
    assert api.model_info("o/r", revision="refs/pr/1", expand=["sha"]).sha != commit
    assert api.model_info("o/r", revision=commit).sha == commit
    branches = {branch.name: branch.target_commit for branch in api.list_repo_refs("o/r").branches}
    assert branches["main"] == commit
    assert api.dataset_info("o/d").sha == server.commit("datasets/o/d")


def test_trees_come_in_pages(server: Hub) -> None:
    tree = {entry.path: entry for entry in _api(server).list_repo_tree("o/r", recursive=True)}
    assert set(tree) == {*_REPO, "a b", "more"}
    assert len(server.asked("cursor=")) >= 2
    weights = tree["model.safetensors"]
    assert isinstance(weights, RepoFile) and weights.lfs is not None
    assert weights.size == weights.lfs.size == 256 * 64
    assert [e.path for e in _api(server).list_repo_tree("o/r", "a b")] == ["a b/ü.txt"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(_api(server).list_repo_tree("o/r", "nothing"))
    known = _api(server).get_paths_info("o/r", ["more", "config.json", "nothing"])
    assert [entry.path for entry in known] == ["more", "config.json"]


def test_a_snapshot_has_every_byte(server: Hub, tmp_path: Path) -> None:
    folder = Path(snapshot_download("o/r", endpoint=server.url, cache_dir=tmp_path, token=False))
    assert folder.name == server.commit("o/r")
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == _REPO


def test_large_files_are_elsewhere_and_small_ones_here(server: Hub) -> None:
    for name, host in (("config.json", server.url), ("model.safetensors", server.cdn)):
        url = hf_hub_url("o/r", name, endpoint=server.url)
        about = get_hf_file_metadata(url, endpoint=server.url, token=False)
        assert about.location.startswith(host + "/")
        assert (about.commit_hash, about.size) == (server.commit("o/r"), len(_REPO[name]))


def test_what_cannot_be_read_is_named_by_its_reason(server: Hub, tmp_path: Path) -> None:
    def read(
        repo: str, file: str = "config.json", token: str | bool = False, revision: str = "main"
    ) -> None:
        hf_hub_download(
            repo, file, revision=revision, endpoint=server.url, cache_dir=tmp_path, token=token
        )

    for token in (False, "hf_other"):
        with pytest.raises(GatedRepoError):
            read("o/gated", token=token)
        for repo in ("o/private", "o/none"):
            with pytest.raises(RepositoryNotFoundError):
                read(repo, token=token)
    read("o/gated", token="hf_member")
    read("o/private", token="hf_member")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        read("o/r", token="hf_wrong")
    with pytest.raises(RevisionNotFoundError):
        read("o/r", revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        read("o/r", "none.json")


def test_rate_limits_pass(server: Hub) -> None:
    before = len(server.requests)
    server.refuse(2, headers={})
    url = hf_hub_url("o/r", "config.json", endpoint=server.url)
    about = get_hf_file_metadata(url, endpoint=server.url, token=False, retry_on_errors=True)
    assert about.size == len(_REPO["config.json"])
    assert [r.status for r in server.requests[before:]] == [429, 429, 307, 200]


def test_a_signature_ends(server: Hub) -> None:
    import httpx2

    url = hf_hub_url("o/r", "model.safetensors", endpoint=server.url)
    location = get_hf_file_metadata(url, endpoint=server.url, token=False).location
    part = httpx2.get(location, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"\x01\x02\x03")
    assert httpx2.get(location, headers={"Authorization": "Bearer x"}).status_code == 400
    server.expire()
    assert httpx2.get(location).status_code == 403
