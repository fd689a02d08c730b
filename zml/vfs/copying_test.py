import errno
import os
import threading
from pathlib import Path

import pytest

from zml.errors import CancelledError, CorruptedError, ReadError
from zml.testing import fresh
from zml.vfs.base import Cancellation, File
from zml.vfs.copying import copy
from zml.vfs.memory import MemoryFile


def _file(size: int, part: int = 1000) -> MemoryFile:
    file = MemoryFile("memory://x", fresh.generator().bytes(size))
    file.part = part
    return file


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 123_456])
def test_every_size_arrives(size: int, tmp_path: Path) -> None:
    file = _file(size)
    copy(file, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == file.read()
    assert _names(tmp_path) == ["x"]


def test_what_is_there_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    class Failing(MemoryFile):
        def read_into(
            self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
        ) -> None:
            if offset > 3000:
                raise ReadError("the cable was pulled")
            super().read_into(offset, buffer, cancellation)

    file = Failing("memory://x", bytes(10_000))
    file.part = 1000
    with pytest.raises(ReadError, match="the cable"):
        copy(file, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "old"
    assert _names(tmp_path) == ["x"]


def test_other_bytes_than_the_checksums_are_not_kept(tmp_path: Path) -> None:
    class Corrupting(MemoryFile):
        def read_into(
            self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
        ) -> None:
            super().read_into(offset, buffer, cancellation)
            if offset == 3000:
                buffer[7] ^= 1

    file = Corrupting("memory://x", fresh.generator().bytes(10_000))
    file.part = 1000
    with pytest.raises(CorruptedError, match="memory://x"):
        copy(file, tmp_path / "x")
    assert _names(tmp_path) == []


def test_a_full_disk_is_said_before_it_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ReadError, match=r"/x: cannot be written: No space left on device"):
        copy(_file(10), tmp_path / "x")
    assert _names(tmp_path) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"none/x: cannot be written: No such file"):
        copy(_file(10), tmp_path / "none" / "x")


def test_a_source_that_cannot_seek_is_read_in_order(tmp_path: Path) -> None:
    read: list[int] = []

    class Ordered(MemoryFile):
        in_order = True

        def read_into(
            self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
        ) -> None:
            read.append(offset)
            super().read_into(offset, buffer, cancellation)

    file = Ordered("memory://x", fresh.generator().bytes(9_500))
    file.part = 1000
    copy(file, tmp_path / "x")
    assert read == list(range(0, 9_500, 1000))


def test_one_part_that_fails_ends_the_others(tmp_path: Path) -> None:
    mine = Cancellation()
    read: list[int] = []

    class Failing(MemoryFile):
        streams = 2

        def read_into(
            self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
        ) -> None:
            if offset == 1000:
                raise ReadError("gone")
            read.append(offset)
            assert cancellation is not None
            cancellation.wait(60 if offset else 0.2)

    file = Failing("memory://x", bytes(400_000))
    file.part = 1000
    with pytest.raises(ReadError, match="gone"):
        copy(file, tmp_path / "x", mine)
    assert len(read) <= 2 and not mine.cancelled and _names(tmp_path) == []


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(ReadError, match="x: cannot be written: Is a directory"):
        copy(_file(10), tmp_path / "x")
    assert _names(tmp_path) == ["x"]


def test_cancelling_ends_it(tmp_path: Path) -> None:
    cancellation, started = Cancellation(), threading.Event()

    class Slow(MemoryFile):
        def read_into(
            self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
        ) -> None:
            started.set()
            assert cancellation is not None
            cancellation.wait(60)

    def cancel() -> None:
        started.wait()
        cancellation.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    file: File = Slow("memory://x", bytes(10_000))
    with pytest.raises(CancelledError):
        copy(file, tmp_path / "x", cancellation)
    thread.join()
    assert _names(tmp_path) == []
