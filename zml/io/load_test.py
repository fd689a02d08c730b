import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml.buffer import Buffer
from zml.declared import Repeat
from zml.errors import CheckpointError, ReadError
from zml.io import TensorStore, View, stored_bytes
from zml.io import load as load_model
from zml.model_tree import model, static
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh, Sharding, ShardingError
from zml.tensor import Tensor
from zml.testing import files, fresh

_BF16 = np.dtype(ml_dtypes.bfloat16)
# One more than a multiple of 4, so that the tail of a vectorised loop is met too.
_SPECIAL = [
    0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 6e-8, 5.9e-8, 65504, 65520, 1e38, -3.4e38, 1e39,
    1e300, 5e-324, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-9,
]  # fmt: skip


@cache
def _platform(devices: int = 1) -> Platform:
    platform = Platform.init("cpu", CpuOptions(devices))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return platform


def load(
    declared: Any,
    store: TensorStore,
    platform: Platform,
    shardings: Sequence[Sharding] | None = None,
) -> Any:
    """io.load, whose result has the type of the declared model, that is Tensors."""
    return load_model(declared, store, platform, shardings=shardings)


def _arrays(count: int = 10) -> dict[str, np.ndarray]:
    rng = fresh.generator()
    return {name: rng.standard_normal(1000).astype(np.float32) for name in "abcdefghij"[:count]}


def _vectors(view: View, *names: str, size: int = 1000) -> dict[str, Tensor]:
    return {name: view.tensor(name, {"d": size}) for name in names}


@pytest.mark.parametrize("to", [np.float32, np.float16, _BF16], ids=str)
@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16, _BF16], ids=str)
def test_every_stored_float_loads_as_every_float(stored: Any, to: Any, tmp_path: Path) -> None:
    with np.errstate(over="ignore"):
        special = np.array(_SPECIAL, np.float64).astype(stored)
        noise = fresh.generator().standard_normal((3, 17)).astype(stored)
        expected = {"special": special.astype(to), "noise": noise.astype(to)}
    store = files.store(tmp_path, {"special": special, "noise": noise})
    view = store.view(to)
    declared = {
        "special": view.tensor("special", {"d": 21}),
        "noise": view.tensor("noise", ("a", "b")),
    }
    for name, buffer in load(declared, store, _platform()).items():
        assert isinstance(buffer, Buffer) and buffer.shape == declared[name].shape
        loaded, wanted = buffer.numpy(), expected[name]
        assert loaded.dtype == wanted.dtype
        np.testing.assert_array_equal(loaded.astype(np.float64), wanted.astype(np.float64))
        signs, expected_signs = (np.signbit(x[~np.isnan(x)]) for x in (loaded, wanted))
        np.testing.assert_array_equal(signs, expected_signs)


def test_every_half_precision_pattern_widens_exactly(tmp_path: Path) -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    arrays = {"half": patterns.view(np.float16), "brain": patterns.view(_BF16)}
    store = files.store(tmp_path, arrays)
    loaded = load(_vectors(store.view("f32"), *arrays, size=2**16), store, _platform())
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name].numpy(), array.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.bool_, ml_dtypes.float8_e4m3fn])
def test_other_types_load_as_they_are_stored_where_the_model_says_so(
    dtype: Any, tmp_path: Path
) -> None:
    array = fresh.generator().integers(0, 2, (3, 5)).astype(dtype)
    store = files.store(tmp_path, {"a": array})
    for declared in (
        store.view().tensor("a", ("x", "y")),
        store.view("f32").tensor("a", ("x", "y"), dtype=dtype),
    ):
        loaded = load(declared, store, _platform()).numpy()
        assert loaded.dtype == array.dtype
        np.testing.assert_array_equal(loaded, array)


@model
class _Part:
    weight: Tensor
    bias: Tensor | None
    scale: float = static(default=2.0)


def test_the_model_comes_back_with_buffers(tmp_path: Path) -> None:
    arrays = {"v": np.ones(2, np.float32), "s": np.array(3, np.float32)}
    store = files.store(tmp_path, arrays)
    view = store.view()
    declared = (_Part(view.tensor("v", {"d": 2}), None, 5.0), [None, view.tensor("s", {})])
    loaded, rest = load(declared, store, _platform())
    assert (type(loaded), loaded.bias, loaded.scale) == (_Part, None, 5.0)
    assert rest[0] is None and rest[1].item() == 3
    assert loaded.weight.numpy().tolist() == [1, 1]
    assert stored_bytes(declared, store) == 12


def test_a_declared_shape_may_be_another_than_the_stored_one(tmp_path: Path) -> None:
    array = fresh.generator().standard_normal((6, 5)).astype(np.float32)
    store = files.store(tmp_path, {"w": array})
    declared = store.view().tensor("w", {"h": 3, "hd": 2, "d": 5}, stored=(6, 5))
    loaded = load(declared, store, _platform())
    assert loaded.shape == Shape({"h": 3, "hd": 2, "d": 5}, "f32")
    np.testing.assert_array_equal(loaded.numpy(), array.reshape(3, 2, 5))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("stored", [np.float32, _BF16], ids=str)
def test_repeats_follow_one_another_on_any_axis(axis: int, stored: Any, tmp_path: Path) -> None:
    array = fresh.generator().standard_normal((2, 3, 5)).astype(stored)
    store = files.store(tmp_path, {"w": array})
    tags, dims = "xyz", [2, 3, 5]
    dims[axis] *= 4
    declared = store.view("f32").tensor(
        "w", dict(zip(tags, dims, strict=True)), repeat=Repeat(tags[axis], 4)
    )
    expected = np.repeat(array.astype(np.float32), 4, axis)
    np.testing.assert_array_equal(load(declared, store, _platform()).numpy(), expected)


def test_a_cut_weight_is_whole_again_over_two_devices(tmp_path: Path) -> None:
    two = _platform(2)
    matrix = fresh.generator().standard_normal((4, 6)).astype(np.float32)
    store = files.store(tmp_path, {"m": matrix})
    cuts: list[tuple[dict[str, str], tuple[int, int]]] = [
        ({"a": "model"}, (2, 6)),
        ({"b": "model"}, (4, 3)),
        ({}, (4, 6)),
    ]
    for cut, shard in cuts:
        declared = store.view().tensor("m", {"a": 4, "b": 6}, **cut)  # type: ignore[arg-type]
        for shardings in (None, two.shardings):
            loaded = load(declared, store, two, shardings=shardings)
            np.testing.assert_array_equal(loaded.numpy(), matrix)
            assert {s.data.shape for s in loaded.array.addressable_shards} == {shard}


def test_repeated_heads_are_cut_where_the_stored_ones_are_not_enough(tmp_path: Path) -> None:
    heads = fresh.generator().standard_normal((1, 3)).astype(np.float32)
    store = files.store(tmp_path, {"k": heads})
    declared = store.view().tensor("k", {"h": 2, "hd": 3}, repeat=Repeat("h", 2), h="model")
    for shard in load(declared, store, _platform(2)).array.addressable_shards:
        np.testing.assert_array_equal(shard.data, heads)


def test_a_shape_that_no_sharding_covers_is_refused(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"a": np.ones(4, np.float32)})
    declared = store.view().tensor("a", {"d": 4}, d="experts")
    with pytest.raises(ShardingError, match="experts"):
        load(declared, store, _platform(2))


def test_a_tensor_goes_to_the_memory_that_it_asks_for(tmp_path: Path) -> None:
    array = fresh.generator().standard_normal(4).astype(np.float32)
    store, one = files.store(tmp_path, {"a": array}), _platform()
    declared = store.view().tensor("a", {"d": 4})
    default = load(declared, store, one).memory
    other = next(kind for kind in one.memories if kind != one.memories[0])
    loaded = load(declared.in_memory(other), store, one)
    assert loaded.memory == other != default
    np.testing.assert_array_equal(loaded.numpy(), array)


def test_what_is_not_declared_by_a_view_is_refused(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"a": np.ones(2, np.float32)})
    for wrong in (Tensor.declare({"d": 2}, "f32"), Shape({"d": 2}, "f32"), np.ones(2)):
        declared = {"a": [store.view().tensor("a", {"d": 2}), wrong]}
        with pytest.raises(CheckpointError, match=r"^\['a'\]\[1\] of the model is .*View\.tensor"):
            load(declared, store, _platform())


def test_what_does_not_fit_is_refused_before_any_is_read(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"a": np.ones(2, np.float32), "q": np.ones(2, np.uint8)})
    os.truncate(tmp_path / "model.safetensors", 8)
    declared = _vectors(store.view("f32"), "a", "q", size=2)
    with pytest.raises(CheckpointError, match="q is U8, expected F16 or BF16 or F32 or F64"):
        load(declared, store, _platform())


def test_a_file_cut_between_opening_and_reading_is_an_error(tmp_path: Path) -> None:
    arrays = _arrays()
    store = files.store(tmp_path, arrays)
    os.truncate(tmp_path / "model.safetensors", store.entries["c"].begin + 100)
    said = r"(ended at byte \d+|was changed after it was opened).*\(while a, b, c, d and 6 more were read\)"
    with pytest.raises(ReadError, match=said):
        load(_vectors(store.view(), *arrays), store, _platform())


def test_what_was_opened_is_loaded_whatever_becomes_of_the_path(tmp_path: Path) -> None:
    arrays = _arrays(1)
    store = files.store(tmp_path, arrays)
    (tmp_path / "model.safetensors").rename(tmp_path / "other")
    files.store(tmp_path, {"b": np.ones(1, np.float32)})
    loaded = load(_vectors(store.view(), "a"), store, _platform())
    np.testing.assert_array_equal(loaded["a"].numpy(), arrays["a"])


def test_the_log_says_what_was_read_and_what_was_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ones = np.ones(256, np.float32)
    store = files.store(tmp_path, {"a": ones, "b": ones, "x.rotary_emb.inv_freq": ones})
    with caplog.at_level(logging.INFO, "zml"):
        load(_vectors(store.view(), "a", size=256), store, _platform())
    warning, info = (r for r in caplog.records if r.name == "zml.io")
    assert warning.getMessage() == "1 tensors of the checkpoint are not used by the model: b"
    assert info.getMessage().startswith("Loaded weights [1.00KiB, ")
