import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml.errors import CheckpointError
from zml.io import TensorStore, WeightSpec
from zml.io.load import load, stored_bytes
from zml.platform import Platform
from zml.testing.files import tensors

_platform = cache(Platform.init)
_BF16 = np.dtype(ml_dtypes.bfloat16)
# One more than a multiple of 4, so that the tail of a vectorised loop is met too.
_SPECIAL = [
    0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 6e-8, 5.9e-8, 65504, 65520, 1e38, -3.4e38, 1e39,
    1e300, 5e-324, 1 + 2**-8, 1 + 2**-9, 1 + 3 * 2**-9,
]  # fmt: skip


def _store(folder: Path, **arrays: np.ndarray) -> TensorStore:
    (folder / "model.safetensors").write_bytes(tensors(arrays))
    return TensorStore.open(folder)


def _load(store: TensorStore, dtype: Any, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    specs = {name: WeightSpec(name, shape) for name, shape in shapes.items()}
    loaded = load(specs, store, _platform(), np.dtype(dtype))
    return {name: np.asarray(array) for name, array in loaded.items()}


@pytest.mark.parametrize("to", [np.float32, np.float16, _BF16], ids=str)
@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16, _BF16], ids=str)
def test_every_stored_dtype_loads_as_every_dtype(stored: Any, to: Any, tmp_path: Path) -> None:
    with np.errstate(over="ignore"):
        special = np.array(_SPECIAL, np.float64).astype(stored)
        noise = np.random.default_rng(0).standard_normal((3, 17)).astype(stored)
        expected = {"special": special.astype(to), "noise": noise.astype(to)}
    loaded = _load(_store(tmp_path, special=special, noise=noise), to, special=(21,), noise=(3, 17))
    for name, array in expected.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name].astype(np.float64), array.astype(np.float64))
        signs, expected_signs = (np.signbit(x[~np.isnan(x)]) for x in (loaded[name], array))
        np.testing.assert_array_equal(signs, expected_signs)


def test_every_half_precision_pattern_widens_exactly(tmp_path: Path) -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    store = _store(tmp_path, half=patterns.view(np.float16), brain=patterns.view(_BF16))
    loaded = _load(store, np.float32, half=(2**16,), brain=(2**16,))
    np.testing.assert_array_equal(loaded["half"], patterns.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(loaded["brain"], patterns.view(_BF16).astype(np.float32))


def test_scalars_and_the_tree_survive(tmp_path: Path) -> None:
    store = _store(tmp_path, s=np.array(3, np.float32), v=np.ones(2, np.float32))
    specs = (WeightSpec("v", (2,)), [None, WeightSpec("s", ())])
    vector, (nothing, scalar) = load(specs, store, _platform(), np.dtype(np.float32))
    assert nothing is None and scalar.shape == () and float(scalar) == 3
    assert vector.tolist() == [1, 1]
    assert stored_bytes(specs, store) == 12


def test_split_weights_are_whole_again_over_two_devices(tmp_path: Path) -> None:
    platform = Platform.init(device_count=2)
    matrix = np.arange(24, dtype=np.float32).reshape(4, 6)
    store = _store(tmp_path, m=matrix)
    for split, shard in [(0, (2, 6)), (1, (4, 3)), (None, (4, 6))]:
        loaded = load(WeightSpec("m", (4, 6), split), store, platform, np.dtype(np.float32))
        np.testing.assert_array_equal(np.asarray(loaded), matrix)
        assert {s.data.shape for s in loaded.addressable_shards} == {shard}


def test_a_dtype_that_is_no_float_is_refused_before_any_is_read(tmp_path: Path) -> None:
    store = _store(tmp_path, a=np.ones(2, np.float32), q=np.ones(2, np.uint8))
    os.truncate(tmp_path / "model.safetensors", 8)
    with pytest.raises(CheckpointError, match=r"'q' is U8, expected one of F64, F32, F16, BF16"):
        _load(store, np.float32, a=(2,), q=(2,))


def test_a_file_cut_between_opening_and_reading_is_an_error(tmp_path: Path) -> None:
    store = _store(tmp_path, **{name: np.ones(1000, np.float32) for name in "abcdefghij"})
    os.truncate(tmp_path / "model.safetensors", store.entries["c"].begin + 100)
    with pytest.raises(CheckpointError, match=r"ended at byte \d+ while tensor '[c-j]' was read"):
        _load(store, np.float32, **dict.fromkeys("abcdefghij", (1000,)))


def test_a_file_that_vanishes_is_an_error(tmp_path: Path) -> None:
    store = _store(tmp_path, a=np.ones(2, np.float32))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        _load(store, np.float32, a=(2,))


def test_the_log_says_what_was_read_and_what_was_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ones = np.ones(256, np.float32)
    store = _store(tmp_path, a=ones, b=ones, **{"x.rotary_emb.inv_freq": ones})
    with caplog.at_level(logging.INFO, "zml"):
        _load(store, np.float32, a=(256,))
    warning, info = caplog.records
    assert warning.getMessage() == "1 tensors are not used by the model, first b"
    assert info.getMessage().startswith("Loaded weights [1.00KiB, ")
