"""Loads of checkpoints as they come: odd sizes and offsets, every scheme, cut on every axis, failing in every way."""

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml.declared import Repeat
from zml.errors import CancelledError, CorruptedError, ReadError
from zml.io import LoadReport, TensorStore, load, loading, plan
from zml.io.memory import Layout
from zml.io.safetensors import Entry
from zml.io.writer import Region
from zml.io.writers import InPlaceWriter, Writers
from zml.platform import CpuOptions, Platform
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.testing import files, fresh
from zml.vfs import Cancellation, Checksum, File, Options, Vfs
from zml.vfs.memory import MemoryFile, MemoryFileSystem

_BF16 = np.dtype(ml_dtypes.bfloat16)


@cache
def _platform(devices: int = 1) -> Platform:
    platform = Platform.init("cpu", CpuOptions(devices))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return platform


def _arrays() -> dict[str, np.ndarray]:
    """Sizes from nothing to more than a part, and types that put what follows at odd offsets."""
    rng = fresh.generator()
    dims: list[tuple[int, ...]] = [
        (3,), (), (0, 8), (512, 1024), (1,), (8, 12, 16), (1, 4096), (7, 5), (1100, 4000), (64,), (2048, 16),
        (4, 300_000),
    ]  # fmt: skip
    types = [np.uint8, np.float32, np.float16, _BF16, np.int32, np.int8]
    return {
        f"t{i}.{np.dtype(dtype).name}": rng.integers(-100, 100, d).astype(dtype)
        for i, (d, dtype) in enumerate((d, t) for d in dims for t in rng.permutation(types)[:2])
    }


def _same(loaded: Any, arrays: dict[str, np.ndarray]) -> None:
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].numpy().dtype == array.dtype
        assert loaded[name].numpy().tobytes() == array.tobytes(), name


def _all(store: TensorStore, cut: int | None = None, devices: int = 1, dtype: Any = None) -> Any:
    """Every tensor, cut on an axis where that divides."""
    view, declared = store.view(dtype), {}
    for name, entry in store.entries.items():
        tags = "abcd"[: len(entry.shape)]
        cuts: dict[str, Any] = {}
        if cut is not None and cut < len(tags) and entry.shape[cut] % devices == 0:
            cuts = {tags[cut]: "model"}
        is_float = entry.dtype in ("F32", "F16", "BF16")
        declared[name] = view.tensor(
            name,
            dict(zip(tags, entry.shape, strict=True)),
            dtype=None if is_float else files_dtype(entry.dtype),
            **cuts,
        )
    return declared


def files_dtype(name: str) -> str:
    return {"U8": "u8", "I8": "i8", "I32": "i32"}[name]


@pytest.mark.parametrize("padding", [0, 1, 8, 33, 63])
@pytest.mark.parametrize("where", ["file", "memory"])
def test_bytes_at_any_offset_land_where_they_belong(
    where: str, padding: int, tmp_path: Path
) -> None:
    arrays = _arrays()
    content = _padded(arrays, padding)
    (tmp_path / "model.safetensors").write_bytes(content)
    schemes = {"memory": lambda _: MemoryFileSystem({"x/model.safetensors": content})}
    vfs = Vfs(schemes=schemes) if where == "memory" else Vfs()
    url = "memory://x" if where == "memory" else f"file://{tmp_path}"
    report = LoadReport()
    with TensorStore.open(url, vfs) as store:
        loaded = load(_all(store), store, _platform(), report=report)
    _same(loaded, arrays)
    assert report.bytes_needed == sum(array.nbytes for array in arrays.values())
    assert report.bytes_read == report.bytes_needed and report.files == 1
    assert report.first_byte_seconds is not None and report.readers >= 1


def _padded(arrays: dict[str, np.ndarray], padding: int) -> bytes:
    content = files.tensors(arrays)
    length = int.from_bytes(content[:8], "little")
    # So that the header's end has that remainder by 64.
    spaces = (padding - 8 - length) % 64
    return (
        (length + spaces).to_bytes(8, "little")
        + content[8 : 8 + length]
        + b" " * spaces
        + content[8 + length :]
    )


def test_arrays_lie_in_the_memory_that_was_read_into(tmp_path: Path) -> None:
    """No second copy: they are where the layout put them, in the order of the file."""
    arrays = {f"t{i}": fresh.generator().random(1 << 18) for i in range(4)}
    store = files.store(tmp_path, {k: v.astype(np.float32) for k, v in arrays.items()})
    loaded: Any = load(_all(store), store, _platform())
    places = [buffer.numpy().ctypes.data for buffer in loaded.values()]
    assert [place - places[0] for place in places] == [i << 20 for i in range(4)]
    begin = store.entries["t0"].begin
    assert places[0] % 4096 == (begin - begin % 64) % 4096


@pytest.mark.parametrize("dtype", [None, "f32"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("devices", [2, 4])
def test_each_device_has_its_part_and_each_byte_is_read_once(
    devices: int, axis: int, dtype: Any, tmp_path: Path
) -> None:
    arrays = _arrays()
    store = files.store(tmp_path, arrays)
    report = LoadReport()
    declared = _all(store, axis, devices, dtype)
    loaded: Any = load(declared, store, _platform(devices), report=report)
    if dtype:
        arrays = {n: a.astype(declared[n].dtype.numpy) for n, a in arrays.items()}
    _same(loaded, arrays)
    cut = 0
    for name, buffer in loaded.items():
        for shard in buffer.array.addressable_shards:
            np.testing.assert_array_equal(shard.data, arrays[name][shard.index])
        cut += buffer.array.addressable_shards[0].data.nbytes < arrays[name].nbytes
    assert cut >= 2
    assert 1.0 <= report.overread <= 1.02


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_repeats_are_cut_on_every_axis(axis: str, tmp_path: Path) -> None:
    array = fresh.generator().standard_normal((8, 4, 12)).astype(_BF16)
    store = files.store(tmp_path, {"w": array})
    for repeated in "xyz":
        dims = {"x": 8, "y": 4, "z": 12}
        dims[repeated] *= 3
        declared = store.view().tensor(
            "w",
            dims,
            repeat=Repeat(repeated, 3),
            **{axis: "model"},  # type: ignore[arg-type]
        )
        loaded: Any = load(declared, store, _platform(4))
        expected = np.repeat(array, 3, "xyz".index(repeated))
        assert loaded.numpy().tobytes() == expected.tobytes()


def test_what_is_declared_twice_is_read_once(tmp_path: Path) -> None:
    array = fresh.generator().random((256, 512)).astype(np.float32)
    store, report = files.store(tmp_path, {"w": array}), LoadReport()
    view = store.view()
    declared = [view.tensor("w", ("a", "b")), view.tensor("w", ("c", "d"))]
    loaded: Any = load(declared, store, _platform(), report=report)
    for buffer in loaded:
        np.testing.assert_array_equal(buffer.numpy(), array)
    assert report.bytes_read == array.nbytes
    loaded[0].array.delete()
    np.testing.assert_array_equal(loaded[1].numpy(), array)


def test_writers_without_memory_of_the_host_get_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What accelerators have: bytes go through blocks, and programs join them."""

    def staged(client: Any, **options: Any) -> Writers:
        return Writers(client, staged=True, **options)

    monkeypatch.setattr(loading, "Writers", staged)
    arrays = _arrays()
    store = files.store(tmp_path, arrays)
    for axis in (None, 0, 1):
        report = LoadReport()
        loaded = load(_all(store, axis, 2), store, _platform(2), report=report)
        _same(loaded, arrays)
        assert 1.0 <= report.overread <= 1.02


def test_shards_of_other_processes_are_not_read() -> None:
    """Runs that are long are read alone, short ones with what is between them."""
    entry = _entry((64, 1 << 16), "F32", 1000)
    dims, quarter = entry.shape, 1 << 14
    mine = [_writer("w", (0, quarter), (64, quarter), np.float32)]
    assert plan.is_in_runs(dims, [writer.region for writer in mine])
    target = plan.Target("w", lambda: None)
    found = list(plan.pieces(entry, dims, mine[0], target, None))
    assert [(p.begin, p.end) for p in found[:2]] == [
        (1000 + 4 * quarter, 1000 + 8 * quarter),
        (1000 + 4 * 5 * quarter, 1000 + 4 * 6 * quarter),
    ]
    assert sum(p.end - p.begin for p in found) == 64 * quarter * 4
    narrow = [_writer("w", (0, 8), (64, 8), np.float32).region]
    assert not plan.is_in_runs((64, 32), narrow)
    rows = [_writer("w", (16, 0), (16, 1 << 16), np.float32)]
    assert plan.is_in_runs(dims, [rows[0].region])
    (piece,) = plan.pieces(entry, dims, rows[0], target, None)
    assert (piece.begin, piece.end) == (1000 + 16 * 4 * (1 << 16), 1000 + 32 * 4 * (1 << 16))


def _entry(shape: tuple[int, ...], dtype: str, begin: int) -> Any:
    size = int(np.prod(shape)) * 4
    return Entry("memory://x", dtype, shape, begin, begin + size)


def _writer(name: str, at: tuple[int, ...], dims: tuple[int, ...], dtype: Any) -> Any:
    region = Region(name, at, dims, np.dtype(dtype), ())
    return InPlaceWriter(region, np.empty(dims, dtype))


def test_small_gaps_are_read_over_and_large_ones_are_not(tmp_path: Path) -> None:
    sizes = {"a": 100, "gap": 1000, "b": 100, "chasm": 1 << 20, "c": 100}
    arrays = {name: np.ones(size, np.float32) for name, size in sizes.items()}
    store, report = files.store(tmp_path, arrays), LoadReport()
    view = store.view()
    load([view.tensor(x, ("d",)) for x in "abc"], store, _platform(), report=report)
    assert report.bytes_needed == 1200
    assert report.bytes_read == 1200 + 4000


class _Slow(MemoryFile):
    """Delivers after a time, or until it is cancelled; then fails, if it is told to."""

    part = 1 << 16

    def __init__(self, url: str, content: bytes, seconds: float = 0.0, fails_at: int = -1) -> None:
        super().__init__(url, content)
        self._seconds, self._fails_at = seconds, fails_at
        self.reads = 0
        self.at_once = self.most = 0
        self.offsets: list[int] = []
        self._lock = threading.Lock()

    def read_into(
        self, offset: int, buffer: memoryview, cancellation: Cancellation | None = None
    ) -> None:
        with self._lock:
            self.reads += 1
            self.offsets.append(offset)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            if cancellation is not None:
                if offset <= self._fails_at < offset + len(buffer):
                    raise ReadError(f"{self.url}: the disk is broken")
                if self._seconds:
                    cancellation.wait(self._seconds)
            super().read_into(offset, buffer, cancellation)
        finally:
            with self._lock:
                self.at_once -= 1


class _System(MemoryFileSystem):
    def __init__(self, file: File) -> None:
        super().__init__({})
        self._file = file

    def open(self, url: str) -> File:
        return self._file if url.endswith("model.safetensors") else super().open(url)


def _store(file: File, options: Options | None = None) -> TensorStore:
    vfs = Vfs(options, schemes={"memory": lambda _: _System(file)})
    return TensorStore.open("memory://x", vfs)


_LARGE = {f"t{i}": np.full((1 << 18,), i, np.float32) for i in range(8)}
_URL = "memory://x/model.safetensors"


def test_the_first_error_ends_the_others_and_is_the_one() -> None:
    content = files.tensors(_LARGE)
    file = _Slow(_URL, content, seconds=60, fails_at=len(content) // 2)
    store = _store(file, Options(streams=200))
    said = r"the disk is broken \(while .*t[34].* read\)"
    with pytest.raises(ReadError, match=said) as raised:
        load(_all(store), store, _platform())
    assert file.at_once == 0
    # Nor does the error hold on to memory.
    gc.collect()
    assert not [x for x in gc.get_objects() if isinstance(x, InPlaceWriter)]
    assert raised.value.__traceback__ is not None


def test_a_load_is_cancelled_from_another_thread() -> None:
    file = _Slow(_URL, files.tensors(_LARGE), seconds=60)
    store, cancellation = _store(file), Cancellation()
    timer = threading.Timer(0.1, cancellation.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        load(_all(store), store, _platform(), cancellation=cancellation)
    timer.join()
    assert file.at_once == 0
    with pytest.raises(CancelledError):
        load(_all(store), store, _platform(), cancellation=cancellation)


def test_a_source_that_cannot_seek_is_read_by_one_from_its_beginning_on() -> None:
    file = _Slow(_URL, files.tensors(_LARGE), seconds=0.001)
    file.in_order = True
    store = _store(file)
    file.offsets.clear()
    file.most = 0
    _same(load(_all(store), store, _platform()), _LARGE)
    assert file.most == 1
    assert file.offsets == sorted(file.offsets) and len(file.offsets) > 8


@pytest.mark.parametrize("streams", [1, 3])
def test_as_many_readers_as_were_asked_for(streams: int) -> None:
    file, report = _Slow(_URL, files.tensors(_LARGE), seconds=0.005), LoadReport()
    store = _store(file, Options(streams=streams))
    _same(load(_all(store), store, _platform(), report=report), _LARGE)
    assert file.most <= streams and report.readers <= streams


def test_more_readers_are_tried_where_the_medium_is_slow() -> None:
    file, report = _Slow(_URL, files.tensors(_LARGE), seconds=0.05), LoadReport()
    file.streams = 2
    store = _store(file)
    _same(load(_all(store), store, _platform(), report=report), _LARGE)
    assert 2 < report.readers <= 8


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
@pytest.mark.parametrize("verify", [None, True, False])
def test_damaged_bytes_are_found_by_the_sources_checksum(
    verify: bool | None, algorithm: str
) -> None:
    arrays: dict[str, np.ndarray] = {
        **_LARGE,
        "odd": np.ones(3, np.uint8),
        "b": np.ones((3, 5), np.float32),
    }
    content = files.tensors(arrays)
    digest = (
        zlib.crc32(content).to_bytes(4, "big")
        if algorithm == "crc32"
        else hashlib.sha256(content).digest()
    )
    looks = verify or (verify is None and algorithm == "crc32")
    for at in (None, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        if at is not None:
            damaged[at] ^= 1
        file = _Slow(_URL, bytes(damaged))
        file.checksum = Checksum(algorithm, digest)
        store = _store(file)
        declared = _all(store)
        if at is not None and looks:
            with pytest.raises(CorruptedError, match=f"the {algorithm} of the bytes read is"):
                load(declared, store, _platform(), verify=verify)
        else:
            load(declared, store, _platform(), verify=verify)


def test_what_no_tensor_needs_is_read_only_for_those_who_insist() -> None:
    arrays: dict[str, np.ndarray] = {"a": _LARGE["t1"], "b": np.ones(2 << 20, np.float32)}
    content = files.tensors(arrays)
    damaged = content[:-1] + b"x"
    for verify in (None, True):
        file = _Slow(_URL, damaged)
        file.checksum = Checksum("crc32", zlib.crc32(content).to_bytes(4, "big"))
        store = _store(file)
        declared = {"a": _all(store)["a"]}
        if verify:
            with pytest.raises(CorruptedError, match="the crc32 of the bytes read is"):
                load(declared, store, _platform(), verify=verify)
        else:
            load(declared, store, _platform(), verify=verify)


def test_headers_of_many_files_are_read_side_by_side(tmp_path: Path) -> None:
    """16 GB that are nowhere: sparse files, of which one tensor is read."""
    count, layers, rows = 8, 8, 1 << 16
    weight_map: dict[str, str] = {}
    for number in range(count):
        name, header, at = f"model-{number}.safetensors", {}, 0
        for layer in range(layers):
            size = rows * 2048 * 2
            key = f"layers.{number}.{layer}.w"
            header[key] = {"dtype": "BF16", "shape": [rows, 2048], "data_offsets": [at, at + size]}
            weight_map[key], at = name, at + size
        raw = files.safetensors(header)
        with (tmp_path / name).open("wb") as file:
            file.write(raw)
            file.truncate(len(raw) + at)
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with TensorStore.open(tmp_path) as store:
        assert sum(e.end - e.begin for e in store.entries.values()) == 16 << 30
        declared = store.view().tensor("layers.7.3.w", ("a", "b"))
        report = LoadReport()
        loaded: Any = load(declared, store, _platform(), report=report)
    assert not loaded.numpy()[:: rows // 8].any()
    assert report.bytes_read == rows * 2048 * 2 and report.files == 1


def test_a_layout_keeps_what_follows_in_a_file_together() -> None:
    layout = Layout[str]()
    layout.reserve("a", 100, 4104)
    layout.reserve("b", 4000, 4204)
    layout.reserve("b", 4000, 4204)
    layout.reserve("far", 10, 1 << 30, group="other")
    slots = layout.allocate()
    (slab, a), (same, b), (other, far) = slots["a"], slots["b"], slots["far"]
    assert slab is same and slab is not other
    places = [s.ctypes.data + at for s, at in ((slab, a), (slab, b), (other, far))]
    assert [place % 64 for place in places] == [0, 0, 0]
    assert [p % 4096 for p in places] == [(o - o % 64) % 4096 for o in (4104, 4204, 1 << 30)]
    assert slab.size == b + 4032


_CHILD = """
import sys, threading, time, os, signal
from zml.io import loading_test as t, load
from zml.testing import files
file = t._Slow(t._URL, files.tensors(t._LARGE), seconds=60)
store = t._store(file)
declared, platform = t._all(store), t._platform()
print("ready", flush=True)
began = None
try:
    load(declared, store, platform)
except KeyboardInterrupt:
    began = time.perf_counter()
    import resource
print("ended", file.at_once, threading.active_count(), flush=True)
sys.exit(7 if began is not None else 0)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_all_readers_at_once() -> None:
    path = os.pathsep.join([*filter(None, sys.path), str(Path.cwd())])
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=30)
    finally:
        child.kill()
    assert (out, child.returncode) == ("ended 0 1\n", 7)
