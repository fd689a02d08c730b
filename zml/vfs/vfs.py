"""Vfs: the schemes that a program reads, each made when its first URL is met."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from zml.errors import NotFoundError, ReadError, UnsupportedError
from zml.vfs import urls
from zml.vfs.base import Entry, File, FileSystem, Options
from zml.vfs.file import LocalFile
from zml.vfs.memory import MemoryFile

if TYPE_CHECKING:
    from zml.vfs.cache import DiskCache

Factory = Callable[[Options], FileSystem]
_SMALL = 256 << 20


class Vfs:
    """File systems by scheme, owned by the caller: `with Vfs() as vfs: vfs.open("hf://Qwen/Qwen3-8B/config.json")`.

    A path without a scheme is a local one. Any thread may call.
    """

    options: Options

    def __init__(
        self, options: Options | None = None, *, schemes: Mapping[str, Factory] | None = None
    ) -> None:
        """`schemes`: those to have instead of all of zml's (zml.vfs.schemes)."""
        from zml.vfs.schemes import SCHEMES

        self.options = options or Options()
        self._factories = dict(SCHEMES if schemes is None else schemes)
        self._systems: dict[str, FileSystem] = {}
        self._cache: DiskCache | None = None
        self._lock = threading.Lock()

    def register(self, scheme: str, factory: Factory) -> None:
        """Adds a scheme, or replaces one that no URL has been read of."""
        with self._lock:
            self._factories[scheme] = factory

    def system(self, url: str) -> FileSystem:
        """The file system of a URL. Raises UnsupportedError for a scheme that is not there."""
        scheme = urls.scheme(url)
        with self._lock:
            if scheme not in self._systems:
                factory = self._factories.get(scheme)
                if factory is None:
                    known = ", ".join(f"{name}://" for name in self._factories)
                    raise UnsupportedError(
                        f"{urls.redacted(url)}: the scheme {scheme!r} is not known; expected a path, or one of {known}"
                    )
                self._systems[scheme] = factory(self.options)
            return self._systems[scheme]

    def open(self, url: str) -> File:
        """Opens a file for reading: with Options.cache a copy on disk, made now if there is none.

        Raises NotFoundError, AccessError, ReadError, UnsupportedError.
        """
        file = self.system(url).open(url)
        if self.options.cache is None or isinstance(file, LocalFile | MemoryFile):
            return file
        from zml.vfs.cache import DiskCache

        with self._lock:
            cache = self._cache = self._cache or DiskCache(self.options.cache, self.options)
        return cache.file(file)

    def stat(self, url: str) -> Entry:
        """What is at a URL. Raises as `open` does."""
        return self.system(url).stat(url)

    def exists(self, url: str) -> bool:
        """Whether there is a file or folder. Raises AccessError and ReadError where that cannot be known."""
        try:
            self.stat(url)
        except NotFoundError:
            return False
        return True

    def list(self, url: str) -> Iterator[Entry]:
        """The files and folders in a folder, by name."""
        return self.system(url).list(url)

    def walk(self, url: str) -> Iterator[Entry]:
        """All files below a folder, by path."""
        return self.system(url).walk(url)

    def glob(self, pattern: str) -> Iterator[Entry]:
        """What fits a pattern: * and ? and [...] within a part of the path, ** for any number of parts.

        A URL without any is itself, if it is there.
        """
        if not urls.has_pattern(pattern):
            return iter([self.stat(pattern)])
        return urls.glob(pattern, self.list, self.walk)

    def read(self, url: str, limit: int = _SMALL) -> bytes:
        """The whole of a small file, in memory. Raises ReadError beyond `limit` bytes."""
        with self.open(url) as file:
            if file.size > limit:
                raise ReadError(
                    f"{urls.redacted(url)}: {file.size} bytes, expected at most {limit}: is it the file that was meant?"
                )
            return file.read()

    def close(self) -> None:
        """Closes every connection. The Vfs can be used again afterwards."""
        with self._lock:
            systems, self._systems = list(self._systems.values()), {}
            cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()
        for system in systems:
            system.close()

    def __enter__(self) -> Vfs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
