import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml.declared import Source
from zml.errors import CheckpointError, ReadError, UnsupportedError
from zml.io import TensorStore, View, load, stored_bytes
from zml.io import quantize as streaming
from zml.kernels.cpu.formats import Format, Packed
from zml.kernels.cpu.quantize import quantize
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor
from zml.testing import files, fresh

_BF16 = np.dtype(ml_dtypes.bfloat16)


@cache
def _platform(devices: int = 1) -> Platform:
    platform = Platform.init("cpu", CpuOptions(devices))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return platform


def _loaded(declared: Any, store: TensorStore, devices: int = 1) -> list[np.ndarray]:
    buffers: Any = load(declared, store, _platform(devices))
    return [buffer.numpy() for buffer in buffers]


def _same(arrays: list[np.ndarray], expected: Packed) -> None:
    np.testing.assert_array_equal(arrays[0], expected.values)
    np.testing.assert_array_equal(arrays[1].view(np.uint8), expected.scales.view(np.uint8))


@pytest.mark.parametrize("chunk", [1, 3000, 1 << 22])
@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, _BF16, np.float64], ids=str)
def test_in_chunks_it_is_what_it_is_at_once(
    dtype: Any, format: Format, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_CHUNK_BYTES", chunk)
    for rows, columns in [(1, 33), (70, 90), (64, 32)]:
        w = fresh.generator().standard_normal((rows, columns)).astype(dtype)
        store = files.store(tmp_path, {"a.w": w})
        declared = store.view("f32").prefix("a").packed("w", rows, columns, format)
        narrow = w.astype(np.float32) if dtype is np.float64 else w
        _same(_loaded(declared, store), quantize(narrow, format))
        assert store.check(declared) == []
        assert stored_bytes(declared, store) == w.nbytes


@pytest.mark.parametrize("chunk", [1, 1 << 22])
@pytest.mark.parametrize(("heads", "size", "times"), [(3, 16, 2), (2, 5, 3), (1, 40, 2), (4, 1, 4)])
def test_repeated_runs_of_rows(
    heads: int,
    size: int,
    times: int,
    chunk: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "_CHUNK_BYTES", chunk)
    w = fresh.generator().standard_normal((heads * size, 40)).astype(_BF16)
    store = files.store(tmp_path, {"w": w})
    rows = heads * size * times
    declared = store.view().packed("w", rows, 40, "int8", times=times, span=size)
    repeated = np.repeat(w.reshape(heads, size, 40), times, 0).reshape(rows, 40)
    _same(_loaded(declared, store), quantize(repeated, Format.INT8))


@pytest.mark.parametrize("cut", ["rows", "groups"])
def test_each_device_gets_its_part(cut: str, tmp_path: Path) -> None:
    w = fresh.generator().standard_normal((64, 128), np.float32)
    store = files.store(tmp_path, {"w": w})
    declared = store.view().packed("w", 64, 128, "int4", **{cut: "model"})  # type: ignore[arg-type]
    loaded: Any = load(declared, store, _platform(2))
    _same([buffer.numpy() for buffer in loaded], quantize(w, Format.INT4))
    for buffer in loaded:
        sizes = {shard.data.nbytes for shard in buffer.array.addressable_shards}
        assert sizes == {buffer.shape.byte_size // 2}


def test_one_reading_serves_all_that_is_declared_of_a_matrix(tmp_path: Path) -> None:
    w = fresh.generator().standard_normal((16, 64), np.float32)
    store = files.store(tmp_path, {"w": w, "b": w})
    view = store.view()
    eight, four = (view.packed("w", 16, 64, format) for format in ("int8", "int4"))
    declared = (*eight, view.tensor("w", ("x", "y")), *four, *eight)
    loaded = _loaded(declared, store)
    _same(loaded[:2], quantize(w, Format.INT8))
    np.testing.assert_array_equal(loaded[2], w)
    _same(loaded[3:5], quantize(w, Format.INT4))
    _same(loaded[5:], quantize(w, Format.INT8))
    assert store.check(declared) == ["b"]
    assert stored_bytes(declared, store) == w.nbytes


def test_the_declared_arrays() -> None:
    view = View.blank("bf16", quantize="int4").prefix("a").layer(0)
    values, scales = view.packed("w", 33, 100, "int8", rows="model", groups="other")
    assert values.shape == Shape(
        {"rows": 3, "groups": 4, "packed": 512}, "i8", {"rows": "model", "groups": "other"}
    )
    assert str(scales.shape) == "{rows=3/model,groups=4/other,lanes=16,bf16}"
    assert isinstance(values.source, Source) and isinstance(scales.source, Source)
    assert (values.source.name, values.source.dims, values.source.part) == (
        "a.0.w", (33, 100), "values",
    )  # fmt: skip
    assert scales.source.part == "scales"
    _, scales = view.packed("w", 33, 100, "int8_channel", rows="model", groups="other")
    assert str(scales.shape) == "{rows=3/model,lanes=16,f32}"
    assert view.packed("w", 33, 100, "int4")[0].dtype == "u8"


def test_the_format_goes_with_the_view(tmp_path: Path) -> None:
    view = files.store(tmp_path, {"w": np.ones((2, 2), np.float32)}).view("f32", quantize="int8")
    assert view.quantize == view.prefix("a").layer(3).over(2).quantize == "int8"
    assert view.over(4).prefix("x").shards == 4
    assert view.quantized("int4").prefix("x").quantize == "int4"
    assert view.quantized(None).quantize is None
    with pytest.raises(
        UnsupportedError, match="quantize='int5': expected one of int8, int8_channel"
    ):
        View.blank("f32", quantize="int5")


@pytest.mark.parametrize("format", Format)
def test_elements_that_are_no_numbers_are_named(format: Format, tmp_path: Path) -> None:
    w = fresh.generator().standard_normal((70, 40)).astype(_BF16)
    w[37, 5] = np.inf
    store = files.store(tmp_path, {"layer.w": w})
    declared = store.view().packed("layer.w", 70, 40, format)
    said = r"model\.safetensors: tensor 'layer\.w' has inf at \[37, 5\], which cannot be quantized"
    with pytest.raises(CheckpointError, match=said):
        load(declared, store, _platform())


def test_a_double_that_is_no_float_is_refused(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"w": np.array([[1e300] * 32])})
    with pytest.raises(CheckpointError, match=r"'w' has inf at \[0, 0\]"):
        load(store.view().packed("w", 1, 32, "int8"), store, _platform())


def test_a_repeated_row_is_named_as_it_is_stored(tmp_path: Path) -> None:
    w = np.ones((6, 32), np.float32)
    w[4, 31] = np.nan
    store = files.store(tmp_path, {"w": w})
    with pytest.raises(CheckpointError, match=r"'w' has nan at \[4, 31\]"):
        load(store.view().packed("w", 12, 32, "int8", times=2, span=3), store, _platform())


def test_a_file_cut_while_it_streams_in_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_CHUNK_BYTES", 4096)
    store = files.store(tmp_path, {"w": np.ones((500, 64), np.float32)})
    os.truncate(tmp_path / "model.safetensors", store.entries["w"].begin + 70_000)
    with pytest.raises(ReadError, match=r"\(while tensor 'w' was read\)"):
        load(store.view().packed("w", 500, 64, "int8"), store, _platform())


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((16, 32), np.int32), "w is I32, expected F16 or BF16 or F32 or F64 to quantize"),
        (np.ones((32, 16), np.float32), r"w is \[32, 16\], expected \[16, 32\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_is_read(
    array: np.ndarray, said: str, tmp_path: Path
) -> None:
    store = files.store(tmp_path, {"w": array})
    os.truncate(tmp_path / "model.safetensors", 8)
    with pytest.raises(CheckpointError, match=said):
        load(store.view().packed("w", 16, 32, "int8"), store, _platform())


_TILE, _TILES = (256, 4096), 160


def run_process(folder: str) -> None:
    """Prints by how many bytes the process grew at most while it loaded, and what the buffers hold."""
    store, platform = TensorStore.open(folder), Platform.init("cpu")
    declared = store.view().packed("w", _TILE[0] * _TILES, _TILE[1], "int8")
    # The first transfer and the library take memory of their own.
    platform.put(np.zeros(4, np.float32), ("d",)).wait()
    quantize(np.zeros((1, 32), np.float32), Format.INT8)
    before = _memory("VmRSS")
    loaded: list[Tensor] = list(load(declared, store, platform))
    print(_memory("VmHWM") - before, sum(buffer.shape.byte_size for buffer in loaded))


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_the_memory_of_the_quantized_weight_and_little_more(tmp_path: Path) -> None:
    """Of 320 MiB in the file, 170 MiB are held in the end."""
    tile = fresh.generator().standard_normal(_TILE, np.float32).astype(_BF16).tobytes()
    count = len(tile) * _TILES
    dims = [_TILE[0] * _TILES, _TILE[1]]
    header = {"w": {"dtype": "BF16", "shape": dims, "data_offsets": [0, count]}}
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(files.safetensors(header))
        for _ in range(_TILES):
            file.write(tile)
    code = f"import sys; from {__name__} import run_process; run_process(sys.argv[1])"
    path = os.pathsep.join([*filter(None, sys.path), str(Path.cwd())])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown, held = map(int, done.stdout.split())
    assert count > 300_000_000 and 0.5 < held / count < 0.54
    assert held <= grown < held + 100_000_000, f"grown by {grown:,}, of which {held:,} are held"
