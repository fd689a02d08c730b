"""A file of any scheme to a local disk: whole and right, or not there at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from zml.errors import ReadError
from zml.vfs.base import Cancellation, File
from zml.vfs.checksum import ALGORITHMS, Verifier
from zml.vfs.urls import redacted


def copy(file: File, path: Path, cancellation: Cancellation | None = None) -> None:
    """Writes a file's content to `path`, replacing what is there, by as many reads at a time as suit the source.

    It grows under another name beside `path`, and gets its own when it is complete, on the disk, and what the source's
    checksum says, if there is one. Memory: a part for each read. Raises ReadError for a source that fails, and for a
    disk that is full or may not be written, CorruptedError.
    """
    stop = cancellation or Cancellation()
    # Not tempfile's, whose files nobody else may read.
    name = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ReadError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with contextlib.closing(_Target(handle, path)) as target:
            target.reserve(file.size)
            _fill(file, target, stop)
            target.finish(name)
    except BaseException:
        with contextlib.suppress(OSError):
            name.unlink()
        raise


class _Target:
    """The growing file."""

    def __init__(self, handle: int, path: Path) -> None:
        self._handle = handle
        self._path = path

    def reserve(self, size: int) -> None:
        # A disk that is too full says so now, and not after an hour.
        with self._explained():
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._handle, 0, size)

    def write(self, offset: int, data: memoryview) -> None:
        with self._explained():
            while data:
                count = os.pwrite(self._handle, data, offset)
                data, offset = data[count:], offset + count

    def finish(self, name: Path) -> None:
        with self._explained():
            os.fsync(self._handle)
            name.replace(self._path)

    def close(self) -> None:
        os.close(self._handle)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ReadError(f"{self._path}: cannot be written: {error.strerror}") from error


def _fill(file: File, target: _Target, stop: Cancellation) -> None:
    offsets = iter(range(0, file.size, file.part))
    verifier = None
    if file.checksum is not None and file.checksum.algorithm in ALGORITHMS:
        verifier = Verifier(file.checksum, file.size, redacted(file.url))
    lock, ending = threading.Lock(), Cancellation()

    def work() -> None:
        buffer = memoryview(bytearray(min(file.part, file.size)))
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            part = buffer[: min(file.part, file.size - offset)]
            file.read_into(offset, part, ending)
            if verifier is not None:
                verifier.add(offset, part)
            target.write(offset, part)

    readers = 1 if file.in_order else file.streams
    with (
        ThreadPoolExecutor(readers, thread_name_prefix="zml-copy") as pool,
        stop.interrupting(ending.cancel),
    ):
        working = [pool.submit(work) for _ in range(readers)]
        try:
            # The first that fails ends the others.
            for one in as_completed(working):
                one.result()
        except BaseException:
            ending.cancel()
            raise
    if verifier is not None:
        verifier.finish(file.read_into)
