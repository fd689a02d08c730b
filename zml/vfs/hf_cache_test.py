"""hf:// beside huggingface_hub's cache: what is there is read from there, and Options.cache fills it."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download

from zml.errors import CancelledError, CorruptedError, NotFoundError, ReadError
from zml.testing.servers.faults import faults
from zml.testing.servers.hub import Hub, hub
from zml.vfs import Options, Vfs
from zml.vfs.base import Cancellation
from zml.vfs.cache import user_cache
from zml.vfs.hf import HubFileSystem
from zml.vfs.hf_cache import Download, HubCache, Repo

_WEIGHTS = bytes(range(256)) * (8 << 10)
_REPO = {"config.json": b'{"a": 1}', "model.safetensors": _WEIGHTS, "sub/a.txt": b"a"}
_WEIGHTS_URL = "hf://o/r/model.safetensors"


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HF_HUB_CACHE; nothing of who runs the test is used."""
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for name in ("HF_HOME", "HF_TOKEN_PATH", "HF_XET_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "home" / name))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "shared"))
    return tmp_path / "shared"


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub({"o/r": {"main": _REPO, "v/1": {"config.json": b"v1"}}}) as server:
        yield server


def _vfs(endpoint: str, cache: Path | None = None, deadline: float = 10.0, **settings: Any) -> Vfs:
    options = Options(deadline=deadline, backoff=0.01, cache=cache)
    return Vfs(options, schemes={"hf": lambda o: HubFileSystem(o, endpoint=endpoint, **settings)})


def _contents(vfs: Vfs, url: str = "hf://o/r") -> dict[str, bytes]:
    return {e.url.removeprefix(f"{url}/"): vfs.read(e.url) for e in vfs.walk(url)}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_what_others_downloaded_is_read_from_there(server: Hub, shared: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        hf_hub_download("o/r", name, endpoint=server.url, cache_dir=shared, token=False)
    before = len(server.requests)
    with _vfs(server.url) as vfs:
        assert vfs.read(_WEIGHTS_URL) == _WEIGHTS
        with vfs.open(_WEIGHTS_URL) as file:
            assert (
                file.etag
                == server.repos["o/r"].commits[server.commit("o/r")]["model.safetensors"].etag
            )
        assert [r.path.split("/")[5] for r in server.requests[before:]] == ["revision", "tree"]
        assert vfs.read("hf://o/r/sub/a.txt") == b"a"
        assert server.asked("sub/a.txt", "HEAD")


def test_another_commit_than_the_cached_one_is_read_from_the_hub(server: Hub, shared: Path) -> None:
    snapshot_download("o/r", endpoint=server.url, cache_dir=shared, token=False)
    server.push("o/r", "main", {"config.json": b"new"})
    with _vfs(server.url) as vfs:
        assert vfs.read("hf://o/r/config.json") == b"new"
    with _vfs(server.url, offline=True) as vfs:
        assert vfs.read("hf://o/r/config.json") == b'{"a": 1}'


def test_offline_a_whole_model_is_read_without_a_request(server: Hub, shared: Path) -> None:
    for revision in ("main", "v/1"):
        snapshot_download(
            "o/r", revision=revision, endpoint=server.url, cache_dir=shared, token=False
        )
    before = len(server.requests)
    with _vfs(server.url, offline=True) as vfs:
        assert _contents(vfs) == _REPO
        assert [e.url for e in vfs.list("hf://o/r")] == [
            f"hf://o/r/{n}" for n in ("config.json", "model.safetensors", "sub/")
        ]
        assert vfs.stat("hf://o/r/sub").is_folder and vfs.stat("hf://o/r").is_folder
        assert _contents(vfs, "hf://o/r@v%2F1") == {"config.json": b"v1"}
        assert vfs.read(f"hf://o/r@{server.commit('o/r')}/config.json") == b'{"a": 1}'
        assert not vfs.exists("hf://o/r/generation_config.json")
        for url in (
            "hf://o/r/none",
            "hf://o/r@none/config.json",
            "hf://o/none/x",
            "hf://o/r@..%2F..%2Frefs/x",
        ):
            with pytest.raises(
                NotFoundError, match=f"{url}: HF_HUB_OFFLINE is set, and it is not in the cache"
            ):
                vfs.open(url)
    assert len(server.requests) == before


def test_a_hub_out_of_reach_leaves_what_is_cached(
    server: Hub, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot_download("o/r", endpoint=server.url, cache_dir=shared, token=False)
    with faults(server.url) as front, _vfs(front.url, deadline=0.5) as vfs:
        front.dead = True
        with caplog.at_level(logging.WARNING, "zml.vfs"):
            assert _contents(vfs) == _REPO
        assert "as far as the cache has it" in caplog.text and len(caplog.records) == 1
        with pytest.raises(
            NotFoundError, match="the hub cannot be reached, and it is not in the cache"
        ):
            vfs.open("hf://o/r/none")
        with pytest.raises(ReadError, match="Given up after"):
            vfs.open("hf://o/r@v%2F1/config.json")


def test_a_commit_that_is_cached_asks_a_hub_out_of_reach_once(
    server: Hub, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot_download("o/r", endpoint=server.url, cache_dir=shared, token=False)
    root = f"hf://o/r@{server.commit('o/r')}"
    with faults(server.url) as front, _vfs(front.url, deadline=0.5) as vfs:
        front.dead = True
        with caplog.at_level(logging.WARNING, "zml.vfs"):
            assert _contents(vfs, root) == _REPO
        assert len(caplog.records) == 1
        with pytest.raises(NotFoundError, match="it is not in the cache"):
            vfs.open(f"{root}/none")


def test_a_cache_of_another_user_is_passed_by(
    server: Hub, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_download("o/r", endpoint=server.url, cache_dir=shared, token=False)

    def refuse(path: Path, **_: bool) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(Path, "exists", refuse)
    with _vfs(server.url) as vfs:
        assert vfs.read(_WEIGHTS_URL) == _WEIGHTS


@pytest.mark.parametrize("own", [False, True], ids=["of-others", "own"])
def test_a_truncated_copy_is_not_read(
    server: Hub, shared: Path, tmp_path: Path, own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache = tmp_path / "own"
    snapshot_download(
        "o/r", endpoint=server.url, cache_dir=own_cache / "hub" if own else shared, token=False
    )
    blob = next(
        path
        for path in _files(tmp_path)
        if path.stat().st_size == len(_WEIGHTS) and not path.is_symlink()
    )
    blob.write_bytes(_WEIGHTS[:-1])
    with (
        _vfs(server.url, own_cache if own else None) as vfs,
        caplog.at_level(logging.WARNING, "zml.vfs"),
    ):
        assert vfs.read(_WEIGHTS_URL) == _WEIGHTS
    assert f"has {len(_WEIGHTS) - 1} bytes, expected {len(_WEIGHTS)}" in caplog.text
    assert blob.stat().st_size == len(_WEIGHTS) - (not own)


def test_a_cache_is_filled_for_other_programs_and_for_offline(
    server: Hub, tmp_path: Path, shared: Path
) -> None:
    with _vfs(server.url, tmp_path / "own") as vfs:
        assert _contents(vfs) == _REPO
        assert _contents(vfs, "hf://o/r@v%2F1") == {"config.json": b"v1"}
    assert not shared.exists()
    for settings in ({"offline": True}, {}):
        before = len(server.asked("resolve"))
        with _vfs(server.url, tmp_path / "own", **settings) as vfs:
            assert vfs.read(_WEIGHTS_URL) == _WEIGHTS
            assert vfs.read("hf://o/r@v%2F1/config.json") == b"v1"
        assert len(server.asked("resolve")) == before
    there = hf_hub_download(
        "o/r", "model.safetensors", cache_dir=tmp_path / "own" / "hub", local_files_only=True
    )
    assert Path(there).read_bytes() == _WEIGHTS


def test_a_folder_is_no_file_in_a_cache_either(server: Hub, tmp_path: Path) -> None:
    with _vfs(server.url, tmp_path / "own") as vfs:
        assert vfs.read("hf://o/r/sub/a.txt") == b"a"
        with pytest.raises(ReadError, match=r"^hf://o/r/sub: is a folder, expected a file"):
            vfs.open("hf://o/r/sub")


def test_the_users_cache_is_the_one_of_huggingface_hub(
    server: Hub, tmp_path: Path, shared: Path
) -> None:
    assert user_cache() == tmp_path / "xdg" / "zml"
    with _vfs(server.url, user_cache()) as vfs:
        assert _contents(vfs) == _REPO
    assert not user_cache().exists()
    assert Path(hf_hub_download("o/r", "config.json", local_files_only=True)).is_relative_to(shared)


def test_a_download_survives_faults(server: Hub, tmp_path: Path) -> None:
    for seed in range(2):
        with (
            faults(server.cdn, seed=seed, cut=0.2, truncate=0.2, busy=0.2) as cdn,
            faults(server.url, seed=seed, cut=0.1, busy=0.1) as front,
            _vfs(front.url, tmp_path / f"{seed}") as vfs,
        ):
            at, server.cdn = server.cdn, cdn.url
            assert vfs.read(_WEIGHTS_URL) == _WEIGHTS
            server.cdn = at


def test_other_bytes_than_the_checksums_are_not_kept(server: Hub, tmp_path: Path) -> None:
    with faults(server.cdn, corrupt=1.0) as cdn, _vfs(server.url, tmp_path / "own") as vfs:
        server.cdn = cdn.url
        with pytest.raises(
            CorruptedError, match=f"{_WEIGHTS_URL}: what was downloaded has not the SHA-256"
        ):
            vfs.open(_WEIGHTS_URL)
        assert cdn.counts["corrupt"] == 2
    kept = [path for path in _files(tmp_path / "own") if path.suffix not in (".lock", ".TAG")]
    assert kept == []


def test_a_folder_that_cannot_be_written_is_named(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "in"):
        with (
            _vfs(server.url, cache) as vfs,
            pytest.raises(
                ReadError,
                match=f"{_WEIGHTS_URL}: cannot be kept in the cache {cache}/hub: Not a dir",
            ),
        ):
            vfs.open(_WEIGHTS_URL)


class _CancelledSoon(Cancellation):
    """After so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    def check(self) -> None:
        self._looks -= 1
        if self._looks == 0:
            self.cancel()
        super().check()


@pytest.mark.parametrize("looks", range(1, 7))
def test_a_download_that_is_cancelled_leaves_nothing(
    server: Hub, tmp_path: Path, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256 << 10)
    download = Download(
        HubCache(tmp_path / "hub"),
        Repo("model", "o/r"),
        server.commit("o/r"),
        "model.safetensors",
        server.url,
        None,
    )
    with pytest.raises(CancelledError):
        download.run(_WEIGHTS_URL, Options(), _CancelledSoon(looks))
    assert not [path for path in _files(tmp_path / "hub") if path.suffix not in (".lock", ".TAG")]
    assert download.run(_WEIGHTS_URL, Options(), Cancellation()).read_bytes() == _WEIGHTS


def test_closing_ends_a_download(server: Hub, tmp_path: Path) -> None:
    with _vfs(server.url, tmp_path / "own") as vfs:
        system = vfs.system("hf://o/r")
        system.stat("hf://o/r")
        vfs.close()
        with pytest.raises(CancelledError):
            system.open(_WEIGHTS_URL)
        assert vfs.read(_WEIGHTS_URL) == _WEIGHTS
