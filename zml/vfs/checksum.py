"""Checks a file's content against the checksum that its source gives, while the content arrives in any order."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from zml.errors import CorruptedError, UnsupportedError
from zml.vfs.base import Checksum
from zml.vfs.crc import Crc, crc

_HASHES = ("sha256", "sha1", "md5")
ALGORITHMS = (*_HASHES, "crc32", "crc32c", "crc64nvme")
"""Those that a Verifier computes."""

Read = Callable[[int, memoryview], None]
"""Fills memory with the bytes from an offset on: a File's `read_into`."""


class Verifier:
    """Takes the content in parts, in any order and from many threads, and says in the end whether it fits.

    CRCs are combined from those of the parts. Hashes need the bytes in order: parts that come early are copied, up to
    `window` bytes. A thread whose part does not fit in there waits while another one hashes; if none does, since an
    earlier part is still missing, the farthest part is forgotten and read again by `finish`.
    """

    def __init__(
        self,
        checksum: Checksum,
        size: int,
        url: str,
        *,
        window: int = 64 << 20,
        part: int = 8 << 20,
    ) -> None:
        """`url` names the file in errors; `part`: bytes that are read again at a time. Raises UnsupportedError."""
        self.checksum, self.size, self.url = checksum, size, url
        self._part = part
        found = crc(checksum.algorithm)
        if found is None and checksum.algorithm not in _HASHES:
            raise UnsupportedError(
                f"{url}: its checksum is of the kind {checksum.algorithm!r}; expected one of {', '.join(ALGORITHMS)}"
            )
        self._sum: _Sum = (
            _Combined(found) if found is not None else _InOrder(checksum.algorithm, window)
        )

    def add(self, offset: int, data: memoryview) -> None:
        """Takes bytes, which may change afterwards. Each byte is to come once."""
        if offset < 0 or offset + len(data) > self.size:
            raise ValueError(f"bytes {offset} to {offset + len(data)} of a file of {self.size}")
        if len(data):
            self._sum.add(offset, data)

    def finish(self, read: Read | None = None) -> bool:
        """Whether the content fits; raises CorruptedError if not. Call it when all threads are done.

        Bytes that did not come are read with `read`. Without it the answer is False where some are missing.
        """
        while (gap := self._sum.gap(self.size)) is not None:
            if read is None:
                return False
            begin, end = gap
            buffer = memoryview(bytearray(min(end - begin, self._part)))
            read(begin, buffer)
            self._sum.add(begin, buffer)
        given = self._sum.digest()
        if given != self.checksum.digest:
            raise CorruptedError(
                f"{self.url}: the {self.checksum.algorithm} of the bytes read is {given.hex()}, the source says "
                f"{self.checksum.digest.hex()}: they were damaged on the way, or at the source; load it again, and "
                "replace the file at the source if that does not help"
            )
        return True


class _Sum(ABC):
    @abstractmethod
    def add(self, offset: int, data: memoryview) -> None:
        """Takes bytes."""

    @abstractmethod
    def gap(self, size: int) -> tuple[int, int] | None:
        """The first bytes that are missing."""

    @abstractmethod
    def digest(self) -> bytes:
        """Of all, once none is missing."""


class _Combined(_Sum):
    """CRCs of ranges; those that touch become one."""

    def __init__(self, crc: Crc) -> None:
        self._crc = crc
        self._lock = threading.Lock()
        # By beginning: the end, and the CRC. By end: the beginning.
        self._ranges: dict[int, tuple[int, int]] = {}
        self._begins: dict[int, int] = {}

    def add(self, offset: int, data: memoryview) -> None:
        value = self._crc.compute(data)
        begin, end = offset, offset + len(data)
        with self._lock:
            before = self._begins.pop(begin, None)
            if before is not None:
                _, first = self._ranges.pop(before)
                value = self._crc.combine(first, value, end - begin)
                begin = before
            after = self._ranges.pop(end, None)
            if after is not None:
                value = self._crc.combine(value, after[1], after[0] - end)
                end = after[0]
            self._ranges[begin], self._begins[end] = (end, value), begin

    def gap(self, size: int) -> tuple[int, int] | None:
        end = self._ranges.get(0, (0, 0))[0]
        if end == size:
            return None
        return end, min((begin for begin in self._ranges if begin > end), default=size)

    def digest(self) -> bytes:
        _, value = self._ranges.get(0, (0, 0))
        return value.to_bytes(self._crc.width // 8, "big")


class _InOrder(_Sum):
    """A hash over the beginning, and parts behind it that wait."""

    def __init__(self, algorithm: str, window: int) -> None:
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._window = window
        self._changed = threading.Condition()
        self._end = 0
        self._hashing = False
        self._waiting: dict[int, bytes] = {}
        self._held = 0

    def add(self, offset: int, data: memoryview) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: not self._hashing or self._held + len(data) <= self._window
            )
            if self._hashing or offset != self._end:
                self._hold(offset, data)
                return
            self._hashing = True
        following: memoryview | bytes = data
        while self._hashing:
            self._hash.update(following)
            with self._changed:
                self._end += len(following)
                following = self._waiting.pop(self._end, b"")
                self._held -= len(following)
                self._hashing = len(following) > 0
                self._changed.notify_all()

    def _hold(self, offset: int, data: memoryview) -> None:
        self._waiting[offset] = bytes(data)
        self._held += len(data)
        while self._held > self._window:
            self._held -= len(self._waiting.pop(max(self._waiting)))

    def gap(self, size: int) -> tuple[int, int] | None:
        if self._end == size:
            return None
        return self._end, min(self._waiting, default=size)

    def digest(self) -> bytes:
        return self._hash.digest()
