"""Options.cache: whole remote files on disk, by URL and version.

Its folder "files" has, by the SHA-256 of URL and etag (or checksum), the file; beside it .json, which says what it is,
and .part while it is being fetched. Nothing is ever removed but what is damaged: delete the folder to be rid of it.
Files of the Hugging Face hub are in "hub", in huggingface_hub's own layout (zml.vfs.hf_cache).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from zml import log
from zml.errors import CorruptedError, ReadError
from zml.units import binary_size
from zml.vfs.base import Cancellation, File, Options
from zml.vfs.checksum import ALGORITHMS, Verifier
from zml.vfs.file import LocalFileSystem
from zml.vfs.urls import redacted

_LOG = log.get("vfs")
_POLL = 0.1
_HEADER = 32
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def user_cache() -> Path:
    """The user's own cache, $XDG_CACHE_HOME/zml: for programs whose `--cache` may come without a folder.

    With it the hub's files go to, and come from, HF_HUB_CACHE, which other programs use as well.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or os.path.expanduser("~/.cache")) / "zml"  # noqa: PTH111  # without a home it is "~"


class DiskCache:
    """A folder of whole files. Any number of threads and processes may use it at once."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self._options = options
        self._closing = Cancellation()

    def file(self, remote: File) -> File:
        """The same file on disk, fetched first if it is not there; `remote` itself where its version is not known.

        What was fetched in part by a process that ended is gone on with. Raises as reading does, CorruptedError for
        other bytes than the checksum's, ReadError for a folder that cannot be written: that leaves nothing behind.
        """
        version = _version(remote)
        if version is None:
            _LOG.info("%s is not kept in the cache: its source gives no ETag", redacted(remote.url))
            return remote
        key = hashlib.sha256(f"{remote.url}\n{version}".encode()).hexdigest()
        path = self.folder / "files" / key[:2] / key
        with remote:
            try:
                if not _is_whole(path, remote):
                    _Fetch(remote, path, self._closing).run()
            except OSError as error:
                raise ReadError(
                    f"{redacted(remote.url)}: cannot be kept in the cache {self.folder}: {error.strerror}; "
                    "read without a cache, or choose another folder for it"
                ) from error
        return copy_of(remote.url, path, remote.etag, self._options)

    def close(self) -> None:
        """Ends what is being fetched, with CancelledError. It can be gone on with later."""
        self._closing.cancel()


def copy_of(url: str, path: Path, etag: str | None, options: Options) -> File:
    """A file on disk that stands for a remote one: it has that one's name and version."""
    file = LocalFileSystem(options).open(str(path))
    file.url, file.etag = url, etag
    return file


class _Fetch:
    """A file on its way to disk.

    Behind its bytes the .part file says which of its parts are done, and in which run of the system: after a crash of
    the machine they may not have reached the disk. Whoever fetches holds a lock on it, which ends with the process.
    """

    def __init__(self, remote: File, path: Path, closing: Cancellation) -> None:
        self._remote = remote
        self._path = path
        self._closing = closing
        self._part = path.with_suffix(".part")
        self._count = -(-remote.size // remote.part)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Raises OSError where the disk fails."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = self._locked()
        if descriptor is None:
            return
        try:
            try:
                self._fill(descriptor)
                _verify(descriptor, self._remote)
            except CorruptedError:
                os.ftruncate(descriptor, 0)
                self._fill(descriptor)
                _verify(descriptor, self._remote)
            os.ftruncate(descriptor, self._remote.size)
            os.fsync(descriptor)
            _note(self._path, self._remote, os.fstat(descriptor).st_mtime_ns)
            self._part.replace(self._path)
        except (OSError, CorruptedError):
            self._part.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _locked(self) -> int | None:
        """The .part file, locked; None where another process, or thread, has fetched the file meanwhile."""
        waits = False
        while True:
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The one that had the lock before has renamed or removed it: then this is no longer that file.
                mine = False
                with contextlib.suppress(FileNotFoundError):
                    mine = os.path.samestat(os.fstat(descriptor), self._part.stat())
                if mine and not _is_whole(self._path, self._remote):
                    return descriptor
                if mine:
                    self._part.unlink()
                    os.close(descriptor)
                    return None
                os.close(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                if not waits:
                    _LOG.info("%s: waiting for another to fetch it", redacted(self._remote.url))
                waits = True
                self._closing.wait(_POLL)
            except BaseException:
                os.close(descriptor)
                raise

    def _fill(self, descriptor: int) -> None:
        size, part = self._remote.size, self._remote.part
        header = hashlib.sha256(f"{_boot()} {part} {size}".encode()).digest()
        done = bytearray(self._count)
        resumable = os.fstat(descriptor).st_size == size + _HEADER + self._count
        if resumable and os.pread(descriptor, _HEADER, size) == header:
            done = bytearray(os.pread(descriptor, self._count, size + _HEADER))
        if not any(done):
            os.ftruncate(descriptor, 0)
            free = shutil.disk_usage(self._path.parent).free
            if free < size:
                raise OSError(
                    errno.ENOSPC,
                    f"{binary_size(size)} are needed, {binary_size(free)} are free on its disk",
                )
            os.ftruncate(descriptor, size + _HEADER + self._count)
            os.pwrite(descriptor, header, size)
        left = iter([index for index in range(self._count) if not done[index]])
        ending = Cancellation()
        streams = 1 if self._remote.in_order else max(1, self._remote.streams)
        with (
            ThreadPoolExecutor(streams, thread_name_prefix="zml-cache") as pool,
            self._closing.interrupting(ending.cancel),
        ):
            work = [pool.submit(self._work, descriptor, left, ending) for _ in range(streams)]
            try:
                wait(work)
            except BaseException:
                ending.cancel()
                raise
        if self._failure is not None:
            raise self._failure
        self._closing.check()

    def _work(self, descriptor: int, left: Iterator[int], ending: Cancellation) -> None:
        """Fetches parts until none is left."""
        size, part = self._remote.size, self._remote.part
        buffer = memoryview(bytearray(min(part, size)))
        while True:
            with self._lock:
                index = next(left, None)
            if index is None or ending.cancelled:
                return
            offset = index * part
            piece = buffer[: min(part, size - offset)]
            try:
                self._remote.read_into(offset, piece, ending)
                _write(descriptor, piece, offset)
                os.pwrite(descriptor, b"\1", size + _HEADER + index)
            except BaseException as error:
                # The first says why; the others end since it has.
                with self._lock:
                    self._failure = self._failure or error
                ending.cancel()
                return


def _version(remote: File) -> str | None:
    if remote.etag and not remote.etag.startswith("W/"):
        return remote.etag
    checksum = remote.checksum
    return f"{checksum.algorithm}:{checksum.digest.hex()}" if checksum else None


def _is_whole(path: Path, remote: File) -> bool:
    """Whether a file of the cache is what it was when it was fetched: by size and time; else by its checksum."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if found.st_size == remote.size:
        try:
            noted = json.loads(path.with_suffix(".json").read_text("utf-8"))["modified"]
        except (OSError, ValueError, KeyError, TypeError):
            noted = None
        if noted == found.st_mtime_ns:
            return True
        with path.open("rb") as file, contextlib.suppress(CorruptedError):
            if _verify(file.fileno(), remote):
                # Not again the next time, if the folder can be written.
                with contextlib.suppress(OSError):
                    _note(path, remote, found.st_mtime_ns)
                return True
    _LOG.warning(
        "%s: its copy in the cache, %s, is damaged: it is fetched again", redacted(remote.url), path
    )
    return False


def _note(path: Path, remote: File, modified: int) -> None:
    """Says, for programs and people, what a file of the cache is. Queries are left out: they may be signed."""
    about = {
        "url": redacted(remote.url), "version": _version(remote), "size": remote.size, "modified": modified,
    }  # fmt: skip
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    temporary.replace(path.with_suffix(".json"))


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _boot() -> str:
    """Names the run of the system; where that has no name, this process."""
    return _BOOT.read_text("ascii") if _BOOT.exists() else f"process {os.getpid()}"


def _verify(descriptor: int, remote: File) -> bool:
    """Whether the source gives a checksum to compare with. Raises CorruptedError for other bytes than its."""
    checksum = remote.checksum
    if checksum is None or checksum.algorithm not in ALGORITHMS:
        return False

    def read(offset: int, buffer: memoryview) -> None:
        if os.preadv(descriptor, [buffer], offset) != len(buffer):
            raise OSError(errno.EIO, "the file is cut short")

    Verifier(checksum, remote.size, redacted(remote.url)).finish(read)
    return True
