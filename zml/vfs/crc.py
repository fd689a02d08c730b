"""Cyclic redundancy checks of parts, and their combination to that of the whole.

A CRC is the remainder of the content, as a polynomial over GF(2), by the CRC's own: so those of two parts give that of
both, and parts can be computed in any order. zlib has CRC-32, the package google_crc32c has CRC-32C at the speed of the
memory. CRC-64/NVME, which S3 adds to objects that bring no other, is in no package that we have; `_folded` computes it
with numpy at about 2 GB/s a thread, and CRC-32C where that package is missing.

Bits are reflected, as all of these CRCs have them: the lowest bit of the first byte is the highest power of x.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

type _Words = np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(frozen=True)
class Crc:
    """A CRC with all ones before the content, and inverted after it."""

    width: int
    polynomial: int
    """Reflected, without its highest power."""
    powers: tuple[int, ...] = ()
    """e, f, ... with x^64e + x^64f + ... = 1 modulo the polynomial, found by search: what `_folded` goes by."""
    native: Callable[[memoryview], int] | None = None
    """A function in C."""

    def compute(self, data: memoryview) -> int:
        """Of some bytes. Lets other threads run meanwhile."""
        return self.native(data) if self.native is not None else _computed(self, data)

    def combine(self, first: int, second: int, length: int) -> int:
        """Of two parts together; `length` is the second's in bytes."""
        return self.multiply(first, self.power(8 * length)) ^ second

    def multiply(self, a: int, b: int) -> int:
        """The product of two remainders."""
        product, one, mask = 0, 1 << (self.width - 1), (1 << self.width) - 1
        while a:
            if a & one:
                product ^= b
            a = (a << 1) & mask
            b = (b >> 1) ^ (self.polynomial if b & 1 else 0)
        return product

    @functools.lru_cache(maxsize=256)  # noqa: B019  # three instances, for the life of the process
    def power(self, exponent: int) -> int:
        """The remainder of x^exponent."""
        if exponent == 0:
            return 1 << (self.width - 1)
        half = self.power(exponent // 2)
        square = self.multiply(half, half)
        if exponent % 2 == 0:
            return square
        return (square >> 1) ^ (self.polynomial if square & 1 else 0)


CRC32 = Crc(32, 0xEDB88320, native=zlib.crc32)
CRC64NVME = Crc(64, 0x9A6C9329AC4BC9B5, (2598, 2962, 4292, 5382, 7086, 7458, 7599))
CRC32C = Crc(32, 0x82F63B78, (3859, 4146, 5424))


@functools.cache
def crc(algorithm: str) -> Crc | None:
    """The CRC of a name, with the function in C that there is for it; None if the name is not a CRC's."""
    if algorithm != "crc32c":
        return {"crc32": CRC32, "crc64nvme": CRC64NVME}.get(algorithm)
    try:
        import google_crc32c
    except ImportError:
        return CRC32C
    if google_crc32c.implementation != "c":
        return CRC32C
    # It takes only what gives its memory without a lock, as arrays do.
    return Crc(
        32,
        CRC32C.polynomial,
        native=lambda data: google_crc32c.value(np.frombuffer(data, np.uint8)),
    )


# Words of a block, and of what stays of it: for few words, and four times as many for more. A block's buffer is in a
# core's own cache.
_BLOCK = 16384
_KEPT = 8192
_MANY = 65536


def _computed(crc: Crc, data: memoryview) -> int:
    count = len(data) // 8
    register = _folded(crc, np.frombuffer(data, "<u8", count)) if count else 0
    table = _byte_table(crc)
    for byte in data[8 * count :]:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    ones = (1 << crc.width) - 1
    return register ^ crc.multiply(ones, crc.power(8 * len(data))) ^ ones


def _folded(crc: Crc, words: _Words) -> int:
    """The remainder of words times x^width.

    A word may be replaced by itself at the distances of `powers` before it, since it is multiplied with 1 so. That is a
    few XORs of whole slices, from the last block to the first; what is left of a block is added to the one before.
    """
    # 1 squared is 1: multiples by powers of two serve as well, and make fewer, longer slices.
    scale = 4 if len(words) >= _MANY else 1
    block, left, powers = _BLOCK * scale, _KEPT * scale, [scale * power for power in crc.powers]
    step = min(powers)
    buffer = np.zeros(block + left, np.uint64)
    blocks = -(-len(words) // block)
    end = len(words)
    for _ in range(blocks):
        buffer[block:] = buffer[:left]
        part = words[max(0, end - block) : end]
        buffer[: block - len(part)] = 0
        buffer[block - len(part) : block] = part
        end -= len(part)
        for last in range(len(buffer), left, -step):
            first = max(last - step, left)
            for power in powers:
                target = buffer[first - power : last - power]
                np.bitwise_xor(target, buffer[first:last], out=target)
    kept = buffer[:left]
    while len(kept) > 1:
        half = len(kept) // 2
        kept = _shifted(crc, kept[:half], half) ^ kept[half:]
    # It stood before all the words of the blocks, of which the first one's beginning stayed.
    register = _from_word(crc, int(kept[0]))
    return crc.multiply(register, crc.power(64 * (block * blocks - left)))


def _from_word(crc: Crc, word: int) -> int:
    """The remainder of a word times x^width."""
    register = 0
    table = _byte_table(crc)
    for byte in word.to_bytes(8, "little"):
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


def _shifted(crc: Crc, words: _Words, distance: int) -> _Words:
    """Words of the remainders of words times x^64distance."""
    tables = _word_tables(crc, distance)
    columns = words.view(np.uint8).reshape(-1, 8)
    result = tables[0][columns[:, 0]]
    for position in range(1, 8):
        result ^= tables[position][columns[:, position]]
    return result


@functools.cache
def _word_tables(crc: Crc, distance: int) -> list[_Words]:
    """For each byte of a word, what every value of it adds to the word's remainder times x^64distance."""
    tables = []
    for position in range(8):
        table = np.zeros(256, np.uint64)
        for bit in range(8):
            # The bit is x^(63 - its place in the word); a remainder stands at a word's upper end, where x^0 is.
            power = crc.power(63 - (8 * position + bit) + 64 * distance) << (64 - crc.width)
            table[1 << bit : 2 << bit] = table[: 1 << bit] ^ np.uint64(power)
        tables.append(table)
    return tables


@functools.cache
def _byte_table(crc: Crc) -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (crc.polynomial if value & 1 else 0)
        table.append(value)
    return table
