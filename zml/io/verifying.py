"""Checksums of files, from the bytes that a load reads anyway."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from zml.io.plan import covered
from zml.vfs.base import Cancellation, File
from zml.vfs.checksum import ALGORITHMS, Verifier

# A load may leave out so much of a file that is checked: the header, and then some.
_SMALL = 4 << 20
_FAST = ("crc32", "crc32c")


class Verifying:
    """The files of a load that are compared with their checksums."""

    def __init__(self, verify: bool | None) -> None:
        """True: all that have one; None: those whose checksum costs next to nothing; False: none."""
        self._verify = verify
        self._lock = threading.Lock()
        self._files: dict[str, tuple[File, Verifier]] = {}
        self._seen: dict[str, list[tuple[int, int]]] = {}

    def add(self, file: File, ranges: Iterable[tuple[int, int]]) -> None:
        """A file of which these bytes will be read."""
        if self._verify is False or file.checksum is None:
            return
        algorithm = file.checksum.algorithm
        if self._verify is None:
            left = file.size - covered(ranges)
            if algorithm not in _FAST or left > _SMALL or file.in_order:
                return
        elif algorithm not in ALGORITHMS:
            return
        self._files[file.url] = (file, Verifier(file.checksum, file.size, file.url))
        self._seen[file.url] = []

    def seen(self, file: File, begin: int, data: memoryview) -> None:
        """Bytes that were read. Any thread may call."""
        if file.url not in self._files:
            return
        end = begin + len(data)
        with self._lock:
            # What is read twice is taken once; what is left out so is read again in the end.
            seen = self._seen[file.url]
            if any(begin < stop and start < end for start, stop in seen):
                return
            seen.append((begin, end))
        self._files[file.url][1].add(begin, data)

    def finish(self, cancellation: Cancellation | None) -> None:
        """Reads what is missing of each file. Raises CorruptedError for one that is not what its checksum says."""
        for file, verifier in self._files.values():

            def read(offset: int, buffer: memoryview, file: File = file) -> None:
                file.read_into(offset, buffer, cancellation)

            verifier.finish(read)
