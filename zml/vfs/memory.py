"""memory://: files that are bytes of this process, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from zml.errors import NotFoundError, ReadError
from zml.vfs.base import Cancellation, Checksum, Entry, File, FileSystem


class MemoryFile(File):
    """Bytes."""

    def __init__(self, url: str, content: bytes) -> None:
        self.url = url
        self.size = len(content)
        digest = hashlib.sha256(content)
        self.etag = digest.hexdigest()
        self.checksum = Checksum("sha256", digest.digest())
        self._content = content
        self._closed = False

    def read_into(
        self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        """Copies."""
        if cancellation is not None:
            cancellation.check()
        if self._closed:
            raise ReadError(f"{self.url}: read after it was closed")
        if offset + len(buffer) > self.size:
            raise ReadError(
                f"{self.url}: bytes to {offset + len(buffer)} were asked for, it has {self.size}"
            )
        buffer[:] = self._content[offset : offset + len(buffer)]

    def close(self) -> None:
        """Ends reading."""
        self._closed = True


class MemoryFileSystem(FileSystem):
    """Files by the path after memory://."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def open(self, url: str) -> File:
        """Opens a file."""
        content = self.files.get(self._path(url))
        if content is None:
            raise NotFoundError(f"{url}: there is no such file")
        return MemoryFile(url, content)

    def stat(self, url: str) -> Entry:
        """A file, or a folder that has some."""
        if self._path(url) in self.files:
            file = self.open(url)
            return Entry(url, file.size, file.etag, checksum=file.checksum)
        next(self.list(url))
        return Entry(url.rstrip("/") + "/")

    def list(self, url: str) -> Iterator[Entry]:
        """The names below a folder up to the next "/"."""
        folder = self._path(url.rstrip("/") + "/").lstrip("/")
        below = sorted(path.removeprefix(folder) for path in self.files if path.startswith(folder))
        if not below:
            raise NotFoundError(f"{url}: there is no such folder")
        names = dict.fromkeys(
            name.split("/", 1)[0] + ("/" if "/" in name else "") for name in below
        )
        for name in names:
            full = f"memory://{folder}{name}"
            yield Entry(full) if name.endswith("/") else self.stat(full)

    @staticmethod
    def _path(url: str) -> str:
        return url.removeprefix("memory://")
