"""gzip, the same bytes everywhere.

DEFLATE leaves the encoder a choice, so a digest depends on the library behind Python's `zlib`. zlib itself gives the
same output for the same level from version to version (1.2.13 and 1.3.1 were compared) and on every processor; zlib-ng
and vendors' versions may give another. The interpreter of this repository brings Debian's zlib, by the lock; where
another one runs this, `is_reference` says so. The header is written by hand: Python's gzip module has changed it (time,
level, operating system) from version to version.
"""

import functools
import hashlib
import struct
import zlib
from typing import IO

LEVEL = 6
"""9 makes the layer of jaxlib 0.7 % smaller and takes 2.4 times as long."""

_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_SAMPLE_SHA256 = "30ec5d2d9cf3ae15cf9b233ae64c388c83a8ef3266d9ddd52b5a6e9ea5ff4eaf"


class GzipWriter:
    """A file to write to, whose content arrives in `out` compressed."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 8)
        self._crc = self._size = 0
        out.write(_HEADER)

    def write(self, content: bytes) -> int:
        """Compresses `content`."""
        self._crc = zlib.crc32(content, self._crc)
        self._size += len(content)
        self._out.write(self._deflate.compress(content))
        return len(content)

    def close(self) -> None:
        """Writes the end; `out` stays open."""
        self._out.write(self._deflate.flush())
        self._out.write(struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF))


def sample() -> bytes:
    """Bytes that make an encoder choose: runs, repetitions near and far, noise."""
    noise = b"".join(hashlib.sha256(bytes([i % 251, i // 251])).digest() for i in range(2048))
    text = b"".join(f"{i * i % 977} {i % 7}\n".encode() for i in range(20000))
    return noise[:20000] + text + noise[10000:50000] + bytes(70000) + text[::-1] + noise


@functools.cache
def is_reference() -> bool:
    """Whether this Python's zlib compresses as zlib itself does."""
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 8)
    packed = deflate.compress(sample()) + deflate.flush()
    return hashlib.sha256(packed).hexdigest() == _SAMPLE_SHA256
