"""A folder of compiled programs, shared by processes.

Entries are written to a temporary file and renamed, so a reader sees a whole entry or none; each starts with the digest
of its key and content, so a damaged one is a miss, and so is one under the name of another. Entries are machine code:
the folder is made for its owner alone, and one that others can write to is not used.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path

from zml import log

_ABANDONED = 3600.0
"""Seconds after which a temporary file is nobody's."""
_DIGEST = hashlib.sha256().digest_size
_LOG = log.get("compile")


def default_folder() -> Path | None:
    """${XDG_CACHE_HOME:-$HOME/.cache}/zml/executables; None for a user without a home, as in many containers."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "zml" / "executables"
    except RuntimeError:
        return None


class ExecutableCache:
    """Bytes by key in a folder of at most `max_bytes`, least recently used out first. Never raises: it is a cache."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 30) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._usable: bool | None = None

    def get(self, key: str) -> bytes | None:
        """The entry, or None where there is none or it is damaged."""
        if not self._is_usable():
            return None
        path = self._folder / key
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):  # a folder that can only be read is still worth reading
            os.utime(path)  # the time of last use, for eviction
        digest, blob = content[:_DIGEST], content[_DIGEST:]
        if _digest(key, blob) != digest:
            _LOG.warning("%s is damaged; compiling anew", path)
            return None
        return blob

    def put(self, key: str, blob: bytes) -> None:
        """Stores an entry; a folder that cannot be written to costs one warning."""
        if not self._is_usable():
            return
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as file:
                temporary = Path(file.name)
                file.write(_digest(key, blob) + blob)
            temporary.replace(self._folder / key)
            self._evict()
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            self._give_up(f"cannot be written to ({error.strerror})")

    def _is_usable(self) -> bool:
        if self._usable is None:
            self._usable = True
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = self._folder.stat()
                if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    self._give_up("can be written to by others")
            except OSError as error:
                self._give_up(f"cannot be made ({error.strerror})")
            except ValueError as error:  # such as a zero byte in its name
                self._give_up(f"cannot be made ({error})")
        return self._usable

    def _give_up(self, why: str) -> None:
        self._usable = False
        _LOG.warning("%s %s; compiled programs are not kept for the next run", self._folder, why)

    def _evict(self) -> None:
        entries = []
        for entry in os.scandir(self._folder):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # another process evicted it
                continue
            # A temporary file is another process's, about to be renamed, unless that process died long ago.
            fresh = entry.name.startswith(".") and time.time() - status.st_mtime < _ABANDONED
            if stat.S_ISREG(status.st_mode) and not fresh:
                entries.append((status.st_mtime, status.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def _digest(key: str, blob: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + blob).digest()
