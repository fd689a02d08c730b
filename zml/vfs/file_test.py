import ctypes
import errno
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from zml.errors import AccessError, CancelledError, NotFoundError, ReadError
from zml.testing import fresh
from zml.vfs import Cancellation, Options, Vfs, direct
from zml.vfs.file import LocalFile

_SIZE = (3 << 20) + 1234


def _content(size: int = _SIZE) -> bytes:
    return fresh.generator().bytes(size)


def _file(folder: Path, content: bytes) -> LocalFile:
    (folder / "x").write_bytes(content)
    return LocalFile(str(folder / "x"), Options())


def _drop(file: LocalFile) -> None:
    """Takes it out of the page cache."""
    fd = os.open(file.url, os.O_RDWR)
    os.fsync(fd)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def _read(file: LocalFile, offset: int, size: int, shift: int) -> bytes:
    """A range into memory at an address with that remainder, between bytes that must stay."""
    memory = memoryview(mmap.mmap(-1, size + 3 * direct.PAGE))
    at = direct.PAGE + shift
    memory[:] = b"\xa5" * len(memory)
    file.read_into(offset, memory[at : at + size])
    assert set(memory[:at]) | set(memory[at + size :]) == {0xA5}
    return bytes(memory[at : at + size])


_RANGES = [
    (0, _SIZE), (0, 0), (1, _SIZE - 1), (4096, 1 << 20), (4095, (1 << 20) + 2), (512, 600_000),
    (1 << 20, _SIZE - (1 << 20)), (_SIZE - 300_000, 300_000), (_SIZE - 1, 1), (777, 300_001), (0, 100),
    (123_456, 2 << 20),
]  # fmt: skip


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("cache", ["cold", "warm", "partly"])
def test_any_range_into_memory_at_any_address(
    where: str, cache: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path
    if where == "memory" and Path("/dev/shm").is_dir():  # a filesystem without direct reads
        folder = Path(f"/dev/shm/zml-{os.getpid()}-{cache}")
        folder.mkdir()
    try:
        content = _content()
        with _file(folder, content) as file:
            for offset, size in _RANGES:
                # Congruent to the file, to half of it, aligned, and neither.
                for shift in (offset % 4096, offset % 64, 0, 1):
                    if cache != "warm":
                        _drop(file)
                    if cache == "partly":
                        with Path(file.url).open("rb", buffering=0) as other:
                            os.pread(other.fileno(), 1, 1 << 20)
                    assert _read(file, offset, size, shift) == content[offset : offset + size]
    finally:
        if folder is not tmp_path:
            (folder / "x").unlink()
            folder.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel what it has")
def test_what_is_read_past_the_page_cache_is_not_in_it_then(tmp_path: Path) -> None:
    with _file(tmp_path, _content()) as file:
        _drop(file)
        if file.alignment == 1 or direct.cached(file._fd, 0, _SIZE) != 0:
            return  # this filesystem has no direct reads, or this kernel does not say
        memory = memoryview(bytearray(_SIZE))
        file.read_into(0, memory)
        assert direct.cached(file._fd, 0, _SIZE) == 0
        os.pread(file._fd, _SIZE, 0)
        assert direct.cached(file._fd, 0, _SIZE) == direct.cached(file._fd, 0, 1 << 20) + (  # type: ignore[operator]
            _SIZE - (1 << 20)
        )


@pytest.mark.parametrize("memory", [4, 64, 512, 4096])
def test_reads_land_in_place_where_the_disk_can_fill_the_memory(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, real = _content(), os.preadv
    landed: list[tuple[int, int, int]] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        """A disk that asks for what it says, no more."""
        if fd != file._direct:
            return real(fd, buffers, offset, *flags)
        address, size = direct.address(buffers[0]), len(buffers[0])
        if address % memory or offset % align or size % align:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        landed.append((address, offset, size))
        return real(file._fd, buffers, offset)

    align = max(512, memory)
    monkeypatch.setattr(direct, "alignment", lambda _: direct.Alignment(memory, align))
    monkeypatch.setattr(direct, "cached", lambda *_: 0)
    with _file(tmp_path, content) as file:
        if file.alignment == 1:
            return
        monkeypatch.setattr(os, "preadv", preadv)
        for offset, size in _RANGES:
            for shift in (offset % 4096, offset % 64 - offset % 8, 8, 1):
                landed.clear()
                assert _read(file, offset, size, shift) == content[offset : offset + size]
                assert file._blocks is not None
                in_place = sum(n for at, _, n in landed if at != file._blocks.address)
                if (shift - offset) % memory == 0 and size >= 256 << 10:
                    assert size - 2 * align < in_place <= size
                else:
                    assert in_place == 0


def test_without_what_the_kernel_says_the_cache_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "cached", lambda *_: None)
    content = _content()
    with _file(tmp_path, content) as file:
        for drop in (False, True):
            if drop:
                _drop(file)
            assert _read(file, 5, _SIZE - 5, 5) == content[5:]


@pytest.mark.parametrize("refused", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_filesystem_that_refuses_direct_reads_when_it_comes_to_them(
    refused: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _content()
    with _file(tmp_path, content) as file:
        if file.alignment == 1:
            return
        real, tried = os.preadv, []

        def preadv(fd: int, *arguments: Any) -> int:
            if fd == file._direct:
                tried.append(fd)
                raise OSError(refused, os.strerror(refused))
            return real(fd, *arguments)

        _drop(file)
        monkeypatch.setattr(os, "preadv", preadv)
        assert _read(file, 0, _SIZE, 0) == content and tried


def test_a_filesystem_that_refuses_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "open_direct", lambda *_: None)
    content = _content()
    with _file(tmp_path, content) as file:
        assert file.alignment == 1
        assert _read(file, 3, _SIZE - 3, 0) == content[3:]


def test_another_disk_error_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def preadv(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with _file(tmp_path, _content()) as file:
        _drop(file)
        monkeypatch.setattr(os, "preadv", preadv)
        with pytest.raises(ReadError, match="x: cannot be read: Input/output error"):
            file.read()


def test_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    with _file(tmp_path, _content()) as file:
        for offset, size in ((0, _SIZE + 1), (_SIZE, 1), (_SIZE - 10, 1 << 20)):
            with pytest.raises(ReadError, match=rf"ended at byte {_SIZE}, expected to reach"):
                file.read(offset, size)


@pytest.mark.parametrize("size", [1000, _SIZE])
@pytest.mark.parametrize("change", ["cut", "grown", "written"])
def test_a_file_that_is_changed_is_noticed(change: str, size: int, tmp_path: Path) -> None:
    with _file(tmp_path, _content()) as file:
        file.read(0, 10)
        path = tmp_path / "x"
        if change == "written":
            with path.open("r+b") as other:
                other.write(b"new")
            os.utime(path, ns=(0, 0))
        else:
            os.truncate(path, 500 if change == "cut" else _SIZE + 1)
        with pytest.raises(ReadError, match=r"ended at byte 500|was changed after it was opened"):
            file.read(0, size)


def test_a_file_that_is_replaced_stays_what_it_was(tmp_path: Path) -> None:
    content = _content()
    with _file(tmp_path, content) as file:
        (tmp_path / "y").write_bytes(b"other")
        (tmp_path / "y").replace(tmp_path / "x")
        assert file.read() == content
        with _again(tmp_path) as other:
            assert other.etag != file.etag


def _again(folder: Path) -> LocalFile:
    return LocalFile(str(folder / "x"), Options())


def test_the_version_is_the_same_for_who_lists_and_who_opens(tmp_path: Path) -> None:
    with _file(tmp_path, b"abc") as file, Vfs() as vfs:
        assert vfs.stat(file.url).etag == file.etag
        assert [entry.etag for entry in vfs.list(str(tmp_path))] == [file.etag]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with Vfs() as vfs:
        with pytest.raises(ReadError, match="fifo: cannot be read: it is no regular file"):
            vfs.open(str(tmp_path / "fifo"))
        with pytest.raises(ReadError, match="it is a folder, expected a file"):
            vfs.open(f"file://{tmp_path}")
        for name in ("none", "x" * 5000, "\ud800", "a\0b", "fifo/x"):
            with pytest.raises(NotFoundError):
                vfs.open(str(tmp_path / "x") + name if "\0" in name else f"{tmp_path}/{name}")


def test_links_that_lead_nowhere_or_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"b")
    for name, to in (("dead", "nowhere"), ("loop", "loop"), ("self", "."), ("sub/up", "..")):
        (tmp_path / name).symlink_to(to)
    with Vfs() as vfs:
        listed = [entry.name for entry in vfs.list(str(tmp_path))]
        assert listed == ["a", "self", "sub"]
        walked = [entry.url for entry in vfs.walk(str(tmp_path))]
    assert walked == [f"{tmp_path}/a", f"{tmp_path}/sub/b"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff%20.bin")
    (tmp_path / name).write_bytes(b"odd")
    with Vfs() as vfs:
        for url in (str(tmp_path), f"file://{tmp_path}"):
            (entry,) = vfs.list(url)
            with vfs.open(entry.url) as file:
                assert file.read() == b"odd"


def test_a_permission_that_is_missing_has_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with Vfs() as vfs, pytest.raises(AccessError, match="x: cannot be read: Permission denied"):
        vfs.open(str(tmp_path / "x"))


def test_a_cancelled_read_ends(tmp_path: Path) -> None:
    cancellation = Cancellation()
    with _file(tmp_path, _content()) as file:
        cancellation.cancel()
        with pytest.raises(CancelledError):
            file.read_into(0, memoryview(bytearray(10)), cancellation)


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    file = _file(tmp_path, _content())
    file.read()
    before = _open_descriptors()
    file.close()
    assert _open_descriptors() < before
    with pytest.raises(ReadError, match="closed already"):
        file.read(0, 1)
    file = _again(tmp_path)
    del file
    assert _open_descriptors() < before


def _open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208


def test_wide_memory_is_filled_too(tmp_path: Path) -> None:
    content = _content(1 << 20)
    with _file(tmp_path, content) as file:
        buffer = (ctypes.c_uint64 * (len(content) // 8))()
        file.read_into(0, memoryview(buffer))
        assert bytes(buffer) == content


def test_readers_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with Vfs(Options(streams=3)) as vfs, vfs.open(str(tmp_path / "x")) as file:
        assert file.streams == 3
