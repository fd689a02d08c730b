import itertools
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml.errors import ReadError, ShapeError
from zml.io.staged import parts_of
from zml.io.writer import MemoryWriter, Region
from zml.io.writers import Writers
from zml.pjrt import transfer
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.testing import fresh

_PAGE = 4096
_TYPES = [
    np.float32, ml_dtypes.bfloat16, np.float16, np.int8, np.uint16, np.bool_, ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e8m0fnu, np.complex64,
]  # fmt: skip


@cache
def _platform(devices: int = 1) -> Platform:
    platform = Platform.init("cpu", CpuOptions(devices))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return platform


def _writers(platform: Platform, staged: bool, block: int = _PAGE, blocks: int = 3) -> Writers:
    return Writers(platform.client, block_bytes=block, blocks=blocks, staged=staged)


def _array(dims: tuple[int, ...], dtype: Any) -> np.ndarray:
    dtype = np.dtype(dtype)
    bits = fresh.generator().integers(0, 2 if dtype.kind == "b" else 120, (*dims, dtype.itemsize))
    return np.ascontiguousarray(bits.astype(np.uint8)).view(dtype).reshape(dims)


def _raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _pieces(writer: MemoryWriter, most: int) -> list[tuple[int, int]]:
    """The writer's bytes in pieces of any size, in any order."""
    rng, cuts = random.Random(writer.size), {0, writer.size}
    while len(cuts) < 2 + writer.size // most:
        cuts.add(rng.randrange(writer.size + 1))
    ends = sorted(cuts)
    pieces = list(itertools.pairwise(ends))
    rng.shuffle(pieces)
    return pieces


def _values(writer: MemoryWriter, array: np.ndarray) -> bytes:
    region = writer.region
    index = tuple(slice(a, a + d) for a, d in zip(region.at, region.dims, strict=True))
    return _raw(array[index])


def _write(writer: MemoryWriter, content: bytes, pieces: Sequence[tuple[int, int]]) -> None:
    """From one memory for each piece, which is overwritten as soon as its transfer is done."""

    def one(piece: tuple[int, int]) -> None:
        data = bytearray(content[slice(*piece)])
        writer.write(piece[0], data).wait()
        data[:] = b"\xff" * len(data)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, pieces))


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("dtype", _TYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_pieces_in_any_order_make_the_array(dtype: Any, staged: bool) -> None:
    array = _array((33, 5, 70), dtype)
    shape = Shape(dict(zip("abc", array.shape, strict=True)), array.dtype)
    one = _platform()
    with _writers(one, staged) as writers:
        building = writers.array("w", shape, one.where(shape))
        (writer,) = building.writers
        assert writer.size == array.nbytes
        assert len(writer.parts) == 1 or (staged and array.nbytes > _PAGE)
        _write(writer, _raw(array), _pieces(writer, 1500))
        buffer = building.finish()
    assert buffer.shape == shape and _raw(buffer.numpy()) == _raw(array)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("dims", [(), (1,), (0, 3), (7,), (5000,), (1, 1, 3000), (3, 40, 1, 30)])
def test_every_shape(dims: tuple[int, ...], staged: bool) -> None:
    array, one = _array(dims, np.float32), _platform()
    shape = Shape(dict(zip("abcd", dims, strict=False)), "f32")
    with _writers(one, staged) as writers:
        building = writers.array("w", shape, one.where(shape))
        for part in building.writers[0].parts:
            building.writers[0].write(part.begin, _raw(array)[part.begin : part.end]).wait()
        np.testing.assert_array_equal(building.finish().numpy(), array)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(
    ("cut", "regions"), [({"a": "model"}, 4), ({"b": "model"}, 4), ({}, 1)], ids=str
)
def test_each_device_gets_its_part(cut: dict[str, Any], regions: int, staged: bool) -> None:
    array, four = _array((8, 1024), np.float32), _platform(4)
    shape = Shape({"a": 8, "b": 1024}, "f32", cut)
    with _writers(four, staged) as writers:
        building = writers.array("w", shape, four.where(shape))
        assert len(building.writers) == regions
        for writer in building.writers:
            assert len(writer.region.devices) == 4 // regions
            _write(writer, _values(writer, array), _pieces(writer, 700))
        buffer = building.finish()
    np.testing.assert_array_equal(buffer.numpy(), array)
    for shard in buffer.array.addressable_shards:
        np.testing.assert_array_equal(shard.data, array[shard.index])
    assert buffer.array.sharding == four.where(shape)


def test_on_the_cpu_the_array_is_the_memory_that_was_filled() -> None:
    two = _platform(2)
    for cut in ({}, {"d": "model"}):
        shape = Shape({"d": 1024}, "bf16", cut)
        building = Writers(two.client).array("w", shape, two.where(shape))
        addresses = set()
        for writer in building.writers:
            view = writer.view()
            assert view is not None and len(view) == writer.size
            view[: writer.size // 2] = bytes(writer.size // 2)
            writer.filled(0, writer.size // 2)
            writer.write(writer.size // 2, b"\x01\x40" * (writer.size // 4))
            addresses.add(np.frombuffer(view, np.uint8).ctypes.data)
        array = building.finish().array
        assert {x.data.unsafe_buffer_pointer() for x in array.addressable_shards} == addresses
        assert len(addresses) == len(building.writers)
        assert all(address % 64 == 0 for address in addresses)


@pytest.mark.parametrize("staged", [False, True])
def test_missing_bytes_are_named(staged: bool) -> None:
    one, shape = _platform(), Shape({"d": 3000}, "f32")
    with _writers(one, staged) as writers:
        building = writers.array("layer.w", shape, one.where(shape))
        writer = building.writers[0]
        writer.write(0, bytes(5000))
        writer.write(5004, bytes(6996))
        with pytest.raises(ReadError, match=r"'layer\.w': 4 of 12000 bytes .* from byte 5000 on"):
            building.finish()
        writer.write(5000, bytes(4))
        np.testing.assert_array_equal(building.finish().numpy(), np.zeros(3000))
        with pytest.raises(ValueError, match="finish was called before"):
            building.finish()


@pytest.mark.parametrize("staged", [False, True])
def test_a_byte_is_written_once_and_in_its_place(staged: bool) -> None:
    one, shape = _platform(), Shape({"d": 100}, "f32")
    writer = _writers(one, staged).array("w", shape, one.where(shape)).writers[0]
    writer.write(100, bytes(50))
    for offset, count in ((100, 1), (149, 1), (99, 2), (149, 2), (90, 100), (0, 400)):
        with pytest.raises(ValueError, match=r"'w': bytes .* were written before"):
            writer.write(offset, bytes(count))
    for offset, count in ((-1, 1), (399, 2), (401, 0)):
        with pytest.raises(ValueError, match="are not in its 400 bytes"):
            writer.write(offset, bytes(count))
    writer.write(150, bytes(250))
    writer.write(0, bytes(100))
    said = "has no view to be filled" if staged else "were written before"
    with pytest.raises(ValueError, match=said):
        writer.filled(200, 201)


@pytest.mark.parametrize("staged", [False, True])
def test_arrays_are_written_too(staged: bool) -> None:
    one, shape = _platform(), Shape({"a": 30, "b": 100}, "bf16")
    array = _array((30, 100), ml_dtypes.bfloat16)
    with _writers(one, staged) as writers:
        building = writers.array("w", shape, one.where(shape))
        for begin in (10, 20, 0):
            building.writers[0].write(begin * 200, array[begin : begin + 10]).wait()
        assert _raw(building.finish().numpy()) == _raw(array)


def test_more_arrays_are_begun_than_there_are_blocks() -> None:
    """Each is written by a quarter before any is whole: they must not wait for each other."""
    one, shape = _platform(), Shape({"d": 1 << 19}, "f32")
    array = _array((1 << 19,), np.float32)
    with _writers(one, True, block=2 << 20, blocks=2) as writers:
        building = [writers.array(f"w{i}", shape, one.where(shape)) for i in range(6)]
        quarter = array.nbytes // 4
        for begin in range(0, array.nbytes, quarter):
            for each in building:
                each.writers[0].write(begin, array.view(np.uint8)[begin : begin + quarter])
        for each in building:
            np.testing.assert_array_equal(each.finish().numpy(), array)


def test_memory_is_not_given_back_before_transfers_from_it_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the same bytes cannot be sent to the next device."""
    two, shape = _platform(2), Shape({"a": 64}, "f32")
    array, waited = _array((64,), np.float32), []

    class Sent:
        def block_until_ready(self) -> None:
            waited.append(True)

    def send(host: Any, device: Any, kind: Any) -> Any:
        if device.id == 1:
            raise RuntimeError("no memory")
        return Sent()

    monkeypatch.setattr(transfer, "send", send)
    with _writers(two, True, block=64 << 10) as writers:
        writer = writers.array("w", shape, two.where(shape)).writers[0]
        assert len(writer.region.devices) == 2
        with pytest.raises(RuntimeError, match="no memory"):
            writer.write(0, _raw(array))
    assert waited == [True]


def test_an_array_is_joined_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from zml.io import staged

    one, shape = _platform(), Shape({"a": 64, "b": 1024}, "f32")
    array, places = _array((64, 1024), np.float32), set()
    join = staged.Staging.join

    def spy(self: Any, whole: Any, part: Any, at: Any) -> Any:
        assert part.nbytes <= 64 << 10
        places.add(whole.unsafe_buffer_pointer())
        joined = join(self, whole, part, at)
        assert whole.is_deleted()
        places.add(joined.unsafe_buffer_pointer())
        return joined

    monkeypatch.setattr(staged.Staging, "join", spy)
    with _writers(one, True, block=64 << 10) as writers:
        building = writers.array("w", shape, one.where(shape))
        parts = building.writers[0].parts
        assert len(parts) == 4 and {part.dims for part in parts} == {(16, 1024)}
        for part in reversed(parts):
            building.writers[0].write(part.begin, _raw(array)[part.begin : part.end]).wait()
        np.testing.assert_array_equal(building.finish().numpy(), array)
    assert len(places) == 1


@pytest.mark.parametrize(
    ("dims", "most", "sizes"),
    [
        ((10, 10), 400, {(10, 10)}),
        ((10, 10), 399, {(5, 10)}),
        ((10, 10), 150, {(3, 10), (1, 10)}),
        ((10, 10), 39, {(1, 5)}),
        ((3, 1000), 2000, {(1, 500)}),
        ((2, 3, 100, 7), 2800, {(1, 1, 100, 7)}),
        ((2, 3, 100, 7), 2000, {(1, 1, 50, 7)}),
        ((2, 3), 1, {(1, 1)}),
    ],
)
def test_parts_are_runs_of_bytes_of_two_sizes_at_most(
    dims: tuple[int, ...], most: int, sizes: set[tuple[int, ...]]
) -> None:
    region = Region("w", (0,) * len(dims), dims, np.dtype(np.float32), ())
    parts = list(parts_of(region, most))
    assert {part.dims for part in parts} == sizes
    assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == region.size
    elements = np.arange(region.size // 4).reshape(dims)
    for part in parts:
        index = tuple(slice(a, a + d) for a, d in zip(part.at, part.dims, strict=True))
        run = elements[index].reshape(-1)
        assert run.tolist() == list(range(part.begin // 4, part.end // 4))
        assert part.end - part.begin <= max(most, 4)


def test_a_type_that_jax_does_not_make_is_refused() -> None:
    one, shape = _platform(), Shape({"d": 3}, "f64")
    with pytest.raises(ShapeError, match="jax_enable_x64"):
        Writers(one.client).array("w", shape, one.where(shape))


def test_other_memory_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    one, shape = _platform(), Shape({"d": 5000}, "f32")
    other = next(kind for kind in one.memories if kind != one.memories[0])
    array = _array((5000,), np.float32)
    with _writers(one, True) as writers:
        building = writers.array("w", shape, one.where(shape, memory=other))
        assert len(building.writers[0].parts) == 1
        _write(building.writers[0], _raw(array), _pieces(building.writers[0], 999))
        buffer = building.finish()
    assert buffer.memory == other
    np.testing.assert_array_equal(buffer.numpy(), array)


def test_bytes_that_are_being_written_are_missing_still() -> None:
    one, shape = _platform(), Shape({"d": 4}, "f32")
    building = Writers(one.client).array("w", shape, one.where(shape))
    writer: Any = building.writers[0]
    writer._claim(0, 16)
    with pytest.raises(ReadError, match="16 of 16 bytes were not written, which are being written"):
        building.finish()


def test_threads_fill_one_part_together() -> None:
    one, shape = _platform(), Shape({"d": 1 << 16}, "u8")
    array = _array((1 << 16,), np.uint8)
    with _writers(one, True, block=1 << 16) as writers:
        building = writers.array("w", shape, one.where(shape))
        start = threading.Barrier(4)

        def quarter(i: int) -> None:
            start.wait()
            for begin in range(i << 14, (i + 1) << 14, 64):
                building.writers[0].write(begin, array[begin : begin + 64])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(quarter, range(4)))
        np.testing.assert_array_equal(building.finish().numpy(), array)
