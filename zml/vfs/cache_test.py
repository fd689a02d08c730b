import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

from zml.errors import CancelledError, CorruptedError, ReadError
from zml.testing.servers import nginx
from zml.testing.servers.faults import faults
from zml.testing.vfs_conformance import CASES, FILES, Case, Place, check
from zml.vfs import Cancellation, Checksum, File, Options, Vfs, cache
from zml.vfs.cache import DiskCache

_PART = 64 << 10
_CONTENT = bytes(range(251)) * 2000
_PARTS = -(-len(_CONTENT) // _PART)
_SHA256 = Checksum("sha256", hashlib.sha256(_CONTENT).digest())


class _Remote(File):
    """A file elsewhere, that notes what is read."""

    part = _PART
    streams = 3

    def __init__(
        self,
        content: bytes = _CONTENT,
        etag: str | None = '"1"',
        checksum: Checksum | None = None,
        before: Callable[[int], object] = lambda part: None,
    ) -> None:
        self.url = "https://host/file?signature=secret"
        self.size = len(content)
        self.etag = etag
        self.checksum = checksum
        self.read_parts: list[int] = []
        self.closed = False
        self._content = content
        self._before = before

    def read_into(
        self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        self._before(offset // _PART)
        if cancellation is not None:
            cancellation.check()
        self.read_parts.append(offset // _PART)
        buffer[:] = self._content[offset : offset + len(buffer)]

    def close(self) -> None:
        self.closed = True


def _fetched(folder: Path, remote: _Remote) -> list[int]:
    """Gets the file from a cache; the parts that were read for it."""
    with DiskCache(folder, Options()).file(remote) as file:
        assert file.read() == remote._content
        assert (file.url, file.etag) == (remote.url, remote.etag)
    return sorted(remote.read_parts)


def _files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.rglob("*") if path.is_file())


def _blob(folder: Path) -> Path:
    return next(path for path in folder.rglob("*") if path.is_file() and not path.suffix)


@pytest.mark.parametrize("content", [_CONTENT, b"x" * _PART, b"x" * (_PART + 1), b"x", b""])
def test_a_file_is_fetched_once(tmp_path: Path, content: bytes) -> None:
    first, second = _Remote(content), _Remote(content)
    assert _fetched(tmp_path, first) == list(range(-(-len(content) // _PART)))
    assert _fetched(tmp_path, second) == []
    assert first.closed and second.closed
    assert _files(tmp_path) == ["", ".json"]


def test_another_version_is_another_file(tmp_path: Path) -> None:
    assert len(_fetched(tmp_path, _Remote())) == _PARTS
    assert len(_fetched(tmp_path, _Remote(b"new", '"2"'))) == 1
    assert _fetched(tmp_path, _Remote()) == []


def test_what_it_is_stands_beside_it_without_secrets(tmp_path: Path) -> None:
    _fetched(tmp_path, _Remote())
    text = _blob(tmp_path).with_suffix(".json").read_text()
    about = json.loads(text)
    assert about["url"].startswith("https://host/file") and "secret" not in text
    assert (about["version"], about["size"]) == ('"1"', len(_CONTENT))


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_a_file_whose_version_is_unknown_is_not_kept(tmp_path: Path, etag: str | None) -> None:
    remote = _Remote(etag=etag)
    assert DiskCache(tmp_path / "own", Options()).file(remote) is remote
    assert not remote.closed and not (tmp_path / "own").exists()
    assert len(_fetched(tmp_path, _Remote(etag=etag, checksum=_SHA256))) == _PARTS


@pytest.mark.parametrize("checksum", [None, _SHA256], ids=["etag", "checksum"])
def test_a_damaged_copy_is_fetched_again(tmp_path: Path, checksum: Checksum | None) -> None:
    def damage(how: Callable[[Path], object]) -> int:
        how(_blob(tmp_path))
        return len(_fetched(tmp_path, _Remote(checksum=checksum)))

    _fetched(tmp_path, _Remote(checksum=checksum))
    assert damage(lambda blob: os.truncate(blob, 1000)) == _PARTS
    assert damage(lambda blob: blob.write_bytes(b"x" + _CONTENT[1:])) == _PARTS
    # What was only touched, or copied, is compared where there is something to compare it with.
    expected = 0 if checksum else _PARTS
    assert damage(lambda blob: os.utime(blob, (1, 1))) == expected
    assert damage(lambda blob: blob.with_suffix(".json").unlink()) == expected
    assert damage(lambda blob: blob.with_suffix(".json").write_text("[")) == expected
    assert damage(lambda blob: None) == 0
    # Nothing to compare it with, although the source gives something.
    odd = Checksum("of another kind", b"")
    _blob(tmp_path).with_suffix(".json").unlink()
    assert len(_fetched(tmp_path, _Remote(checksum=odd))) == _PARTS


@pytest.mark.parametrize(
    "checksum",
    [
        _SHA256,
        Checksum("md5", hashlib.md5(_CONTENT).digest()),
        Checksum("crc32", zlib.crc32(_CONTENT).to_bytes(4, "big")),
        Checksum("crc32c", bytes.fromhex("00000000")),
    ],
    ids=lambda checksum: checksum.algorithm,
)
def test_other_bytes_than_the_checksums_are_not_kept(tmp_path: Path, checksum: Checksum) -> None:
    remote = _Remote(b"x" + _CONTENT[1:], checksum=checksum)
    with pytest.raises(CorruptedError, match="https://host/file") as error:
        DiskCache(tmp_path, Options()).file(remote)
    assert "secret" not in str(error.value)
    assert len(remote.read_parts) == 2 * _PARTS
    assert _files(tmp_path) == []
    if checksum.algorithm != "crc32c":
        assert len(_fetched(tmp_path, _Remote(checksum=checksum))) == _PARTS


def test_bytes_that_are_damaged_on_the_way_are_fetched_again(tmp_path: Path) -> None:
    remote = _Remote(b"x" + _CONTENT[1:], checksum=_SHA256)

    def mend(part: int) -> None:
        if len(remote.read_parts) >= _PARTS:
            remote._content = _CONTENT

    remote._before = mend
    assert len(_fetched(tmp_path, remote)) == 2 * _PARTS


def test_reading_that_fails_is_gone_on_with(tmp_path: Path) -> None:
    def fail(part: int) -> None:
        if part == 4:
            raise ReadError("no more")

    remote = _Remote(before=fail)
    with pytest.raises(ReadError, match="no more"):
        DiskCache(tmp_path, Options()).file(remote)
    assert _files(tmp_path) == [".part"]
    left = _fetched(tmp_path, _Remote())
    assert sorted(left + remote.read_parts) == list(range(_PARTS))
    assert _files(tmp_path) == ["", ".json"]


def test_after_a_crash_of_the_machine_nothing_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_reading_that_fails_is_gone_on_with(tmp_path / "same")
    with pytest.raises(ZeroDivisionError):
        DiskCache(tmp_path, Options()).file(_Remote(before=lambda part: divmod(1, 4 - part)))
    monkeypatch.setattr(cache, "_boot", lambda: "another")
    assert len(_fetched(tmp_path, _Remote())) == _PARTS


def test_closing_ends_what_is_fetched(tmp_path: Path) -> None:
    started, goes_on = threading.Event(), threading.Event()

    def block(part: int) -> None:
        if part == 4:
            started.set()
            goes_on.wait(30)

    disk = DiskCache(tmp_path, Options())
    with ThreadPoolExecutor() as threads:
        found = threads.submit(disk.file, _Remote(before=block))
        assert started.wait(30)
        waiting = threads.submit(disk.file, _Remote())
        disk.close()
        goes_on.set()
        for result in (found, waiting):
            with pytest.raises(CancelledError):
                result.result(30)
    assert 0 < len(_fetched(tmp_path, _Remote())) < _PARTS


def test_a_disk_without_room_is_noticed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000))
    remote = _Remote()
    with pytest.raises(
        ReadError, match=f"cannot be kept in the cache {tmp_path}: .* are needed, 1000"
    ):
        DiskCache(tmp_path, Options()).file(remote)
    assert _files(tmp_path) == [] and not remote.read_parts


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ReadError, match=f"cannot be kept in the cache {tmp_path}/file: Not a directory"
    ):
        DiskCache(tmp_path / "file", Options()).file(_Remote())


def test_a_full_folder_is_read_although_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fetched(tmp_path, _Remote())

    def refuse(*args: object, **named: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "touch", "replace", "write_text", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert _fetched(tmp_path, _Remote()) == []
    with pytest.raises(ReadError, match="Permission denied; read without a cache"):
        DiskCache(tmp_path, Options()).file(_Remote(etag='"2"'))


# A process that fetches the file, noting the parts that it reads, and does something at the fourth.
_CHILD = """
import os, resource, signal, sys, time
from pathlib import Path
from zml.vfs import Options
from zml.vfs.cache import DiskCache
from zml.vfs.cache_test import _CONTENT, _Remote

folder, log, act = sys.argv[1:]

def before(part):
    with open(log, "a") as file:
        file.write(f"{part} ")
    time.sleep(0.02)
    if part == 4:
        exec(act)

if act.startswith("limit"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 16, 3 << 16))
    act = "pass"
try:
    with DiskCache(Path(folder), Options()).file(_Remote(before=before)) as file:
        assert file.read() == _CONTENT
except Exception as error:
    sys.exit(str(error))
"""


def _process(folder: Path, log: Path, act: str = "pass") -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.Popen(
        [sys.executable, "-B", "-c", _CHILD, str(folder), str(log), act],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_processes_fetch_it_once_together(tmp_path: Path) -> None:
    processes = [_process(tmp_path / "cache", tmp_path / "log") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(_PARTS))
    assert _files(tmp_path / "cache") == ["", ".json"]


def test_a_process_that_was_killed_holds_up_nobody(tmp_path: Path) -> None:
    process = _process(tmp_path / "cache", tmp_path / "log", "os.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert _files(tmp_path / "cache") == [".part"]
    left = _fetched(tmp_path / "cache", _Remote())
    assert 4 in left and 0 not in left and len(left) < _PARTS


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    process = _process(tmp_path / "cache", tmp_path / "log", "limit")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"cannot be kept in the cache {tmp_path}/cache: File too large; read without" in said
    assert _files(tmp_path / "cache") == []


@pytest.fixture(scope="module", params=[True, False], ids=["ranges", "in-order"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("served")
    seconds = iter(range(1_700_000_000, 1_800_000_000))

    def publish(files: object) -> None:
        assert isinstance(files, dict)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / ".new").write_bytes(content)
            os.utime(folder / ".new", (at := next(seconds), at))
            (folder / ".new").replace(folder / path)

    options = Options(cache=tmp_path_factory.mktemp("cache"))
    with nginx(folder, listing="html", ranges=request.param) as server, Vfs(options) as vfs:
        publish(dict(FILES))
        yield Place(vfs, server.url, publish, quote)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance(place: Place, case: Case) -> None:
    check(place, case)


def test_a_vfs_with_a_cache_asks_whether_a_file_is_still_the_same(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(_CONTENT)
    options = Options(cache=tmp_path / "cache")
    with nginx(tmp_path / "served") as server, faults(server.url) as front:
        for _ in range(2):
            with Vfs(options) as vfs:
                assert vfs.read(f"{front.url}/a.bin") == _CONTENT
        assert len(_CONTENT) <= front.sent < 1.1 * len(_CONTENT)
        (tmp_path / "served" / "a.bin").write_bytes(b"new")
        with Vfs(options) as vfs:
            assert vfs.read(f"{front.url}/a.bin") == b"new"
