"""What a scheme implements: a FileSystem that lists and opens, a File whose byte ranges are read into given memory."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from zml.errors import CancelledError, UsageError
from zml.vfs.urls import unquoted


@dataclass(frozen=True)
class Options:
    """How patient reading is, and how much of it goes on at a time. Seconds and bytes."""

    connect_timeout: float = 10.0
    """For a connection to be made, TLS included."""
    read_timeout: float = 30.0
    """Without a byte arriving."""
    deadline: float = 120.0
    """Without any progress of a read, however often it was tried again: then there is one error."""
    backoff: float = 0.25
    """The first limit of the wait before another try, doubled each time; the wait is random below it (full jitter)."""
    backoff_limit: float = 20.0
    """The longest such wait. A server's Retry-After goes over it."""
    streams: int | None = None
    """Reads at a time of one host; None: what the medium begins with, adapted to what it gives."""
    cache: Path | None = None
    """A folder where whole files of remote schemes are kept; None: nothing is written to disk."""

    def __post_init__(self) -> None:
        if self.streams is not None and self.streams < 1:
            raise UsageError(f"Options: {self.streams} streams; expected at least 1")


@dataclass(frozen=True)
class Checksum:
    """What a source says of a file's whole content."""

    algorithm: str
    """sha256, sha1, md5, crc32, crc32c or crc64nvme."""
    digest: bytes


@dataclass(frozen=True)
class Entry:
    """A file or a folder that was listed."""

    url: str
    """Absolute; a folder's ends with "/"."""
    size: int | None = None
    """In bytes; None for a folder, and where a server does not say."""
    etag: str | None = None
    """The version of the content, as the source names it; None where it does not."""
    modified: float | None = None
    """Seconds since 1970."""
    checksum: Checksum | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it holds entries, and not bytes."""
        return self.url.endswith("/")

    @property
    def name(self) -> str:
        """The last part of the path, as people write it."""
        return unquoted(self.url).rstrip("/").rsplit("/", 1)[-1]


class Cancellation:
    """Ends reads that are under way. Any thread may cancel; it cannot be taken back."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Wakes all who wait, and lets every read raise CancelledError soon."""
        with self._lock:
            self._event.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises CancelledError once it is cancelled."""
        if self._event.is_set():
            raise CancelledError("reading was cancelled")

    def wait(self, seconds: float) -> None:
        """Sleeps, but not beyond `cancel`. Raises CancelledError."""
        self._event.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def interrupting(self, callback: Callable[[], None]) -> Iterator[None]:
        """Calls `callback`, which is to end what the block blocks in, if cancelled meanwhile. Raises CancelledError."""
        with self._lock:
            self.check()
            key, self._next = self._next, self._next + 1
            self._callbacks[key] = callback
        try:
            yield
        finally:
            with self._lock:
                del self._callbacks[key]


class File(ABC):
    """An opened file, pinned to the version that it had then. Any number of threads may read from it at once."""

    url: str
    size: int
    """In bytes."""
    etag: str | None = None
    checksum: Checksum | None = None
    streams: int = 4
    """Reads at a time that suit the medium, to begin with."""
    part: int = 8 << 20
    """Bytes of one read that suit the medium."""
    alignment: int = 1
    """Reads are fastest, and go past the page cache, where offset, address and size are multiples of it."""
    in_order: bool = False
    """The source cannot seek: one read at a time, with rising offsets, or it starts from the beginning again."""

    @abstractmethod
    def read_into(
        self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        """Fills the whole of a contiguous, writable buffer of bytes from `offset` on.

        Tries again what is worth it, as Options say. Raises ReadError for what cannot be read, for a file that has
        another version by now, or that ends before; CancelledError.
        """

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Some bytes, by default all from `offset` on: for small files and headers."""
        buffer = bytearray(self.size - offset if size is None else size)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Gives back what it holds; reading ends with an error afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FileSystem(ABC):
    """A scheme. URLs come whole, scheme included, and are given back so. Any thread may call."""

    @abstractmethod
    def open(self, url: str) -> File:
        """Opens a file. Raises NotFoundError, AccessError, ReadError."""

    @abstractmethod
    def stat(self, url: str) -> Entry:
        """What is there: a file, or a folder. Raises NotFoundError, AccessError, ReadError."""

    @abstractmethod
    def list(self, url: str) -> Iterator[Entry]:
        """The files and folders in a folder, by name. Raises NotFoundError, AccessError, ReadError, and
        UnsupportedError where the source has no listing."""

    def walk(self, url: str) -> Iterator[Entry]:
        """All files below a folder, by path."""
        for entry in self.list(url):
            if entry.is_folder:
                yield from self.walk(entry.url)
            else:
                yield entry

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Closes connections."""
