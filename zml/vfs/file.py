"""file:// and plain paths: local disks, past the page cache."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

from zml.errors import AccessError, NotFoundError, ReadError
from zml.vfs import direct
from zml.vfs.base import Cancellation, Entry, File, FileSystem, Options
from zml.vfs.urls import child

# Below it the page cache is as fast, and others may want these bytes too: headers, configs.
_SMALL = 256 << 10
# How much is asked of the disk at a time, and checked for cancellation between.
_STEP = 8 << 20
# What goes over a block on its way, where memory and file are not congruent: a huge page.
_BLOCK = direct.HUGE_PAGE


class LocalFile(File):
    """A regular file. Large reads go past the page cache, but for the bytes that are in it already.

    The reader of each thread keeps a block of 2 MiB for memory that the disk cannot fill: where `offset` is a multiple
    of `alignment`, the address is to be one of what the disk asks of memory, which may be as little as 4.
    """

    streams = 4
    part = 8 << 20

    def __init__(self, url: str, options: Options) -> None:
        """Raises OSError."""
        self.url = url
        self._path = local_path(url)
        self._fd = -1
        # A FIFO without a writer would block.
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            self._fd = -1
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise ReadError(f"{url}: cannot be read: it is {kind}, expected a file")
        self.size = found.st_size
        self.etag = etag(found)
        self.streams = options.streams or self.streams
        self._changes = (found.st_mtime_ns, found.st_size)
        self._lock = threading.Lock()
        self._blocks: direct.Blocks | None = None
        self._direct = -1
        self._is_open = False

    @property
    def alignment(self) -> int:  # type: ignore[override]
        """What the filesystem asks of reads past the page cache; 1 where it has none."""
        self._open_direct()
        return self._align.offset if self._direct >= 0 else 1

    def read_into(
        self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        """Reads, and looks whether the file is still what it was when it was opened."""
        if self._fd < 0:
            raise ReadError(f"{self.url}: is closed already")
        buffer = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        for done in range(0, len(buffer), _STEP):
            if cancellation is not None:
                cancellation.check()
            step = buffer[done : done + _STEP]
            try:
                self._read(offset + done, step)
            except OSError as error:
                raise failure(self.url, error) from error
        found = os.fstat(self._fd)
        if (found.st_mtime_ns, found.st_size) != self._changes:
            raise ReadError(
                f"{self.url}: was changed after it was opened (it had {self._changes[1]} bytes, it has "
                f"{found.st_size}); open it again"
            )

    def close(self) -> None:
        """Closes the descriptors. Nobody may be reading."""
        for fd in (self._fd, self._direct):
            if fd >= 0:
                os.close(fd)
        self._fd = self._direct = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def _read(self, offset: int, buffer: memoryview) -> None:
        if len(buffer) >= _SMALL and self._open_direct():
            there = direct.cached(self._fd, offset, len(buffer))
            if there == 0:
                self._read_direct(offset, buffer)
                return
            if there is None:
                # One page says it of the rest, which is then read as far as it is there.
                at = random.randrange(0, len(buffer))
                if self._read_there(offset + at, buffer[at : at + 1]):
                    there = self._read_there(offset, buffer)
                self._read_direct(offset + (there or 0), buffer[there or 0 :])
                return
            if there < len(buffer):
                self._read_mixed(offset, buffer)
                return
        self._read_cached(offset, buffer)

    def _read_cached(self, offset: int, buffer: memoryview) -> None:
        """Through the page cache, which also is the way where there is no other."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if count == 0:
                raise ReadError(
                    f"{self.url}: ended at byte {offset + done}, expected to reach {offset + len(buffer)}: "
                    "was the file changed?"
                )
            done += count

    def _read_there(self, offset: int, buffer: memoryview) -> int:
        """As much as the page cache has of it in one piece."""
        if not hasattr(os, "RWF_NOWAIT"):
            return 0
        try:
            return os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:  # EAGAIN: nothing; EOPNOTSUPP: the filesystem does not know
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return 0
            raise

    def _read_mixed(self, offset: int, buffer: memoryview) -> None:
        """Some of it is in the page cache."""
        begin, direct_from = 0, 0
        while begin < len(buffer):
            # Cut at even offsets, so that direct reads need no block at their ends.
            end = min((offset + begin) // _BLOCK * _BLOCK + _BLOCK - offset, len(buffer))
            if direct.cached(self._fd, offset + begin, end - begin) == end - begin:
                self._read_direct(offset + direct_from, buffer[direct_from:begin])
                self._read_cached(offset + begin, buffer[begin:end])
                direct_from = end
            begin = end
        self._read_direct(offset + direct_from, buffer[direct_from:])

    def _open_direct(self) -> bool:
        """Whether there is a descriptor for direct reads; the first call makes it."""
        if not self._is_open:
            with self._lock:
                if not self._is_open and self._fd >= 0:
                    found = direct.open_direct(self._fd, self._path)
                    if found is not None:
                        self._direct, self._align = found
                        self._blocks = direct.Blocks(_BLOCK)
                    self._is_open = True
        return self._direct >= 0

    _align = direct.Alignment(1, 1)

    def _read_direct(self, offset: int, buffer: memoryview) -> None:
        (memory, align), size = self._align, len(buffer)
        done = 0
        try:
            head = -offset % align
            if size > head and (direct.address(buffer) + head) % memory == 0:
                done = self._over_blocks(offset, buffer[:head])
                middle = (size - done) // align * align
                while middle > 0:
                    count = os.preadv(self._direct, [buffer[done : done + middle]], offset + done)
                    if count % align or not count:
                        break  # the file's end, or a filesystem with ideas of its own
                    done, middle = done + count, middle - count
            if done < size:
                done += self._over_blocks(offset + done, buffer[done:])
        except OSError as error:
            # Some filesystems refuse only when it comes to reading.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        self._read_cached(offset + done, buffer[done:])

    def _over_blocks(self, offset: int, buffer: memoryview) -> int:
        """Reads whole blocks around what is wanted, and copies it. Returns how much; less at the file's end."""
        if not buffer:
            return 0
        align, blocks = self._align.offset, self._blocks
        assert blocks is not None
        target, done = direct.address(buffer), 0
        while done < len(buffer):
            skip = (offset + done) % align
            wanted = min(len(buffer) - done, blocks.size - skip)
            whole = -(-(skip + wanted) // align) * align
            count = os.preadv(self._direct, [blocks.view[:whole]], offset + done - skip)
            count = min(count - skip, wanted)
            if count <= 0:
                break
            direct.copy(target + done, blocks.address + skip, count)
            done += count
        return done


class LocalFileSystem(FileSystem):
    """What the operating system has mounted."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def open(self, url: str) -> File:
        """Opens a regular file."""
        with _failures(url):
            return LocalFile(url, self._options)

    def stat(self, url: str) -> Entry:
        """A file or a folder; links are followed."""
        with _failures(url):
            return _entry(url, local_path(url).stat())

    def list(self, url: str) -> Iterator[Entry]:
        """A folder's entries; links that lead nowhere are left out."""
        with _failures(url):
            names = sorted(os.listdir(local_path(url)))  # noqa: PTH208  # a Path for each name costs more than the name
        for name in names:
            try:
                yield self.stat(child(url, name))
            except ReadError:
                # It went, or is a link to where nothing is, or nothing that may be looked at.
                continue

    def walk(self, url: str) -> Iterator[Entry]:
        """All files below a folder. A link to a folder that it is in is not followed."""
        yield from self._walk(url, ())

    def _walk(self, url: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        with _failures(url):
            found = local_path(url).stat()
        here = found.st_dev, found.st_ino
        if here in above:
            return
        for entry in self.list(url):
            if entry.is_folder:
                yield from self._walk(entry.url, (*above, here))
            else:
                yield entry


def local_path(url: str) -> Path:
    """The path of a file:// URL, or of a path."""
    path = url
    if url.startswith("file://"):
        path = os.fsdecode(unquote_to_bytes(url.removeprefix("file://")))
    if "\0" in path:
        raise NotFoundError(f"{url!r}: a path has no NUL in it")
    return Path(path)


def etag(found: os.stat_result) -> str:
    """The version of a local file: another one has another inode, another time or another size."""
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def failure(url: str, error: OSError) -> ReadError:
    """What the operating system says, in our words."""
    kinds = {
        errno.ENOENT: NotFoundError,
        errno.ENOTDIR: NotFoundError,
        errno.ENAMETOOLONG: NotFoundError,
        errno.EACCES: AccessError,
        errno.EPERM: AccessError,
    }
    kind = kinds.get(error.errno or 0, ReadError)
    return kind(f"{url}: cannot be read: {error.strerror}")


@contextlib.contextmanager
def _failures(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure(url, error) from error
    except ValueError as error:  # a null character, or one that the system's encoding lacks
        raise NotFoundError(f"{url!r:.200}: is no name of a file: {error}") from error


def _entry(url: str, found: os.stat_result) -> Entry:
    if stat.S_ISDIR(found.st_mode):
        return Entry(url.rstrip("/") + "/", modified=found.st_mtime)
    return Entry(url, found.st_size, etag(found), found.st_mtime)
