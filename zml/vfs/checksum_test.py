import hashlib
import random
import threading
import zlib
from collections.abc import Callable

import google_crc32c
import pytest

from zml.errors import CorruptedError, UnsupportedError
from zml.testing import fresh
from zml.vfs.base import Checksum
from zml.vfs.checksum import ALGORITHMS, Verifier
from zml.vfs.crc import CRC32, CRC32C, CRC64NVME, Crc, crc

_CHECK = memoryview(b"123456789")


def _bytewise(crc: Crc, data: bytes) -> int:
    """The definition: bit by bit."""
    register = ones = (1 << crc.width) - 1
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (crc.polynomial if register & 1 else 0)
    return register ^ ones


def _digest(algorithm: str, data: bytes) -> bytes:
    found = crc(algorithm)
    if found is None:
        return hashlib.new(algorithm, data).digest()
    return found.compute(memoryview(data)).to_bytes(found.width // 8, "big")


def _content(size: int) -> bytes:
    return fresh.generator().bytes(size)


@pytest.mark.parametrize(
    ("crc", "expected"),
    [(CRC32, 0xCBF43926), (CRC32C, 0xE3069283), (CRC64NVME, 0xAE8B14860A799888)],
)
def test_the_check_values_of_the_catalogue(crc: Crc, expected: int) -> None:
    assert crc.compute(_CHECK) == expected == _bytewise(crc, bytes(_CHECK))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4097, 131072, 131080, 524288, 524296, 600_001])
def test_crcs_of_all_lengths(size: int) -> None:
    data = memoryview(_content(size))
    assert CRC64NVME.compute(data) == _by_table(CRC64NVME, data)
    assert CRC32C.compute(data) == _by_table(CRC32C, data) == google_crc32c.value(bytes(data))
    native = crc("crc32c")
    assert native is not None and native.compute(data) == google_crc32c.value(bytes(data))


def _by_table(crc: Crc, data: memoryview) -> int:
    table = [crc.multiply(_reflected(crc, value), crc.power(crc.width)) for value in range(256)]
    register = ones = (1 << crc.width) - 1
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ ones


def _reflected(crc: Crc, value: int) -> int:
    """The remainder of a byte: its lowest bit is x^7."""
    remainder = 0
    for bit in range(8):
        if value >> bit & 1:
            remainder ^= crc.power(7 - bit)
    return remainder


@pytest.mark.parametrize("crc", [CRC32, CRC32C, CRC64NVME])
def test_parts_are_combined(crc: Crc) -> None:
    data = memoryview(_content(50_000))
    for cut in (0, 1, 12_345, len(data)):
        first, second = crc.compute(data[:cut]), crc.compute(data[cut:])
        assert crc.combine(first, second, len(data) - cut) == crc.compute(data)
    assert CRC32.combine(CRC32.compute(data), 0, 0) == zlib.crc32(data)


def test_the_powers_of_folding_are_one() -> None:
    for folded in (CRC32C, CRC64NVME):
        total = 0
        for power in folded.powers:
            total ^= folded.power(64 * power)
        assert total == folded.power(0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("window", [0, 5_000, 1 << 20])
def test_parts_in_any_order_from_many_threads(algorithm: str, window: int) -> None:
    data = _content(100_003)
    verifier = _verifier(algorithm, data, window=window, part=7_000)
    parts = list(range(0, len(data), 1_001))
    random.Random(int(fresh.generator().integers(1 << 30))).shuffle(parts)

    def add(thread: int) -> None:
        for offset in parts[thread::4]:
            # The memory is used again at once, as a loader's is.
            part = bytearray(data[offset : offset + 1_001])
            verifier.add(offset, memoryview(part))
            part[:] = bytes(len(part))

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again: list[int] = []
    assert verifier.finish(_reader(data, again))
    if window == 1 << 20 or algorithm.startswith("crc"):
        assert not again


def _verifier(
    algorithm: str, data: bytes, *, window: int = 1 << 20, part: int = 1 << 20
) -> Verifier:
    checksum = Checksum(algorithm, _digest(algorithm, data))
    return Verifier(checksum, len(data), "s3://b/weights", window=window, part=part)


def _reader(data: bytes, sizes: list[int]) -> Callable[[int, memoryview], None]:
    def read(offset: int, buffer: memoryview) -> None:
        buffer[:] = data[offset : offset + len(buffer)]
        sizes.append(len(buffer))

    return read


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_missing_is_read(algorithm: str) -> None:
    data = _content(30_000)
    verifier = _verifier(algorithm, data, part=4_000)
    for begin, end in ((9_000, 12_000), (20_000, 25_000)):
        verifier.add(begin, memoryview(data)[begin:end])
    assert not verifier.finish()
    sizes: list[int] = []
    assert verifier.finish(_reader(data, sizes))
    assert sum(sizes) == 30_000 - 8_000 and max(sizes) == 4_000


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_wrong_bit_is_found(algorithm: str) -> None:
    data = _content(10_000)
    verifier = _verifier(algorithm, data)
    wrong = bytearray(data)
    bit = int(fresh.generator().integers(8 * len(data)))
    wrong[bit // 8] ^= 1 << bit % 8
    verifier.add(5_000, memoryview(wrong)[5_000:])
    verifier.add(0, memoryview(wrong)[:5_000])
    expected = _digest(algorithm, data).hex()
    with pytest.raises(
        CorruptedError, match=f"s3://b/weights: the {algorithm} of .* the source says {expected}"
    ):
        verifier.finish()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_empty_file(algorithm: str) -> None:
    assert _verifier(algorithm, b"").finish()


def test_bytes_behind_the_end_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="bytes 2 to 4 of a file of 3"):
        _verifier("md5", b"abc").add(2, memoryview(b"xx"))
    with pytest.raises(UnsupportedError, match=r"s3://b/k: .* 'xxh3'; expected one of sha256, "):
        Verifier(Checksum("xxh3", b""), 1, "s3://b/k")


def test_a_part_that_does_not_fit_waits_for_the_thread_that_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = _content(2_000)
    hashing, go_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, *_: object, **__: object) -> None:
            self._hash = hashlib.sha256()

        def update(self, part: bytes) -> None:
            hashing.set()
            assert go_on.wait(60)
            self._hash.update(part)

        def digest(self) -> bytes:
            return self._hash.digest()

    verifier = _verifier("sha256", data)
    monkeypatch.setattr(hashlib, "new", Slow)
    verifier = Verifier(verifier.checksum, len(data), verifier.url, window=0)
    parts = [(offset, memoryview(data)[offset : offset + 1_000]) for offset in (0, 1_000)]
    threads = [threading.Thread(target=verifier.add, args=part) for part in parts]
    threads[0].start()
    assert hashing.wait(60)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert verifier.finish()
