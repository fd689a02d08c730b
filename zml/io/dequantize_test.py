from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml.declared import Repeat
from zml.errors import CheckpointError, ShapeError
from zml.io import View, load
from zml.io.dequantize import dequantize
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor
from zml.testing import files, fresh

_BF16 = np.dtype(ml_dtypes.bfloat16)
_E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


@cache
def _platform(devices: int = 1) -> Platform:
    platform = Platform.init("cpu", CpuOptions(devices))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return platform


def _weight(rows: int, columns: int, dtype: Any = _E4M3) -> np.ndarray:
    """All finite patterns."""
    bits = fresh.generator().integers(0, 256, (rows, columns), np.uint8)
    values = bits.view(dtype)
    finite = np.isfinite(values.astype(np.float32))
    return np.where(finite, values.view(np.uint8), 0).astype(np.uint8).view(dtype)


def _scales(*dims: int, dtype: Any = np.float32) -> np.ndarray:
    return np.exp(fresh.generator().standard_normal(dims)).astype(dtype)


def _spread(scale: np.ndarray, rows: int, columns: int, block: tuple[int, int]) -> np.ndarray:
    """The factor of each element, looked up one by one."""
    grid = scale.astype(np.float32).reshape((*scale.shape, 1, 1)[:2])
    result = np.empty((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            down = 0 if grid.shape[0] == 1 else i if grid.shape[0] == rows else i // block[0]
            across = 0 if grid.shape[1] == 1 else j if grid.shape[1] == columns else j // block[1]
            result[i, j] = grid[down, across]
    return result


def _same(loaded: Any, expected: np.ndarray) -> None:
    array = loaded.numpy()
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "dims", "dtype"),
    [
        ("_scale_inv", (3, 2), np.float32),
        ("_scale_inv", (3, 2), _BF16),
        ("_scale", (), np.float32),
        ("_scale", (1,), _BF16),
        ("_scale", (264, 1), _BF16),
        ("_scale", (264,), np.float32),
        ("_scale", (3, 2), ml_dtypes.float8_e8m0fnu),
    ],
)
def test_the_layouts_of_checkpoints(
    suffix: str, dims: tuple[int, ...], dtype: Any, devices: int, tmp_path: Path
) -> None:
    weight, scale = _weight(264, 200), _scales(*dims, dtype=dtype)
    store = files.store(tmp_path, {"l.weight": weight, f"l.weight{suffix}": scale})
    view = store.view("bf16").prefix("l")
    declared = view.dequantized("weight", {"dout": 264, "d": 200}, dout="model")
    assert declared.shape == Shape({"dout": 264, "d": 200}, "bf16", {"dout": "model"})
    assert store.check(declared) == []
    expected = weight.astype(np.float32) * _spread(scale, 264, 200, (128, 128))
    loaded: Any = load(declared, store, _platform(devices))
    _same(loaded, expected.astype(_BF16))
    assert {s.data.shape for s in loaded.array.addressable_shards} == {(264 // devices, 200)}


def test_axes_within_the_rows_and_the_columns(tmp_path: Path) -> None:
    weight, scale = _weight(96, 60), _scales(3, 4)
    store = files.store(tmp_path, {"w": weight, "w_scale_inv": scale})
    dims = {"h": 6, "hd": 16, "a": 5, "b": 12}
    declared = store.view("f32").dequantized("w", dims, stored=(96, 60), block=(40, 16), h="model")
    expected = weight.astype(np.float32) * _spread(scale, 96, 60, (40, 16))
    loaded: Any = load(declared, store, _platform(2))
    _same(loaded, expected.reshape(6, 16, 5, 12))
    assert {s.data.shape for s in loaded.array.addressable_shards} == {(3, 16, 5, 12)}


def test_repeated_heads(tmp_path: Path) -> None:
    weight, scale = _weight(32, 24), _scales(32, 1)
    store = files.store(tmp_path, {"w": weight, "w_scale": scale})
    declared = store.view("f32").dequantized(
        "w", {"h": 4, "hd": 16, "d": 24}, stored=(32, 24), repeat=Repeat("h", 2), h="model"
    )
    whole = (weight.astype(np.float32) * scale).reshape(2, 16, 24)
    _same(load(declared, store, _platform(4)), np.repeat(whole, 2, 0))


def test_what_has_no_scales_is_loaded_as_it_is(tmp_path: Path) -> None:
    weight = fresh.generator().standard_normal((4, 6)).astype(np.float32)
    store = files.store(tmp_path, {"w": weight})
    declared = store.view("bf16").dequantized("w", {"dout": 4, "d": 6}, d="model")
    plain = store.view("bf16").tensor("w", {"dout": 4, "d": 6}, d="model")
    assert declared.shape == plain.shape and declared.source == plain.source
    assert View.blank("bf16").dequantized("w", {"dout": 4, "d": 6}).source == plain.source


@pytest.mark.parametrize("dims", [(4,), (2, 3), (3, 3), (1, 1, 1), (0,), (8, 3)])
def test_scales_that_do_not_fit_are_refused(dims: tuple[int, ...], tmp_path: Path) -> None:
    store = files.store(tmp_path, {"w": _weight(300, 200), "w_scale_inv": _scales(*dims)})
    said = r"w_scale_inv is \[.*expected one scale, \[300, 1\] for the rows or \[3, 2\] for blocks of 128 x 128"
    with pytest.raises(CheckpointError, match=said):
        store.view("bf16").dequantized("w", {"dout": 300, "d": 200})
    weight, scale = (Tensor.declare(x, "f32") for x in ({"a": 300, "b": 200}, {"x": 7}))
    with pytest.raises(CheckpointError, match=r"dequantize: the scales are \[7\]"):
        dequantize(weight, scale)


def test_axes_that_cross_rows_and_columns_are_refused(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"w": _weight(6, 10), "w_scale": _scales(1)})
    with pytest.raises(ShapeError, match=r"w: no axis of .* begins the 10 columns .*\[6, 10\]"):
        store.view("bf16").dequantized("w", {"a": 4, "b": 15}, stored=(6, 10))


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"w_scale": _scales(1)})
    declared = store.view("bf16").dequantized("w", {"a": 4, "b": 15})
    with pytest.raises(CheckpointError, match="w missing"):
        store.check(declared)
