"""file:// and plain paths: local disks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from zml.errors import AccessError, NotFoundError, ReadError
from zml.vfs.base import Cancellation, Entry, File, FileSystem, Options


class LocalFile(File):
    """A file descriptor."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fd = os.open(local_path(url), os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read_into(
        self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        """Reads through the page cache."""
        done = 0
        while done < len(buffer):
            if cancellation is not None:
                cancellation.check()
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise failure(self.url, error) from error
            if count == 0:
                raise ReadError(
                    f"{self.url}: ended at byte {offset + done}, expected to reach {offset + len(buffer)}: "
                    "was the file changed?"
                )
            done += count

    def close(self) -> None:
        """Closes the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LocalFileSystem(FileSystem):
    """What the operating system has mounted."""

    def __init__(self, options: Options) -> None:
        del options  # nothing to be patient with

    def open(self, url: str) -> File:
        """Opens a regular file."""
        try:
            return LocalFile(url)
        except OSError as error:
            raise failure(url, error) from error

    def stat(self, url: str) -> Entry:
        """A file or a folder; links are followed."""
        path = local_path(url)
        try:
            return _entry(url, path.stat())
        except OSError as error:
            raise failure(url, error) from error

    def list(self, url: str) -> Iterator[Entry]:
        """A folder's entries; links that lead nowhere are left out."""
        try:
            names = sorted(os.listdir(local_path(url)))  # noqa: PTH208  # a Path for each name costs more than the name
        except OSError as error:
            raise failure(url, error) from error
        for name in names:
            try:
                yield self.stat(f"{url.rstrip('/')}/{name}")
            except NotFoundError:
                continue


def local_path(url: str) -> Path:
    """The path of a file:// URL, or of a path."""
    path = unquote(url.removeprefix("file://")) if url.startswith("file://") else url
    if "\0" in path:
        raise NotFoundError(f"{url!r}: a path has no NUL in it")
    return Path(path)


def failure(url: str, error: OSError) -> ReadError:
    """What the operating system says, in our words."""
    kinds = {
        FileNotFoundError: NotFoundError,
        NotADirectoryError: NotFoundError,
        PermissionError: AccessError,
    }
    kind = kinds.get(type(error), ReadError)
    return kind(f"{url}: cannot be read: {error.strerror}")


def _entry(url: str, found: os.stat_result) -> Entry:
    if stat.S_ISDIR(found.st_mode):
        return Entry(url.rstrip("/") + "/", modified=found.st_mtime)
    return Entry(url, found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}", found.st_mtime)
