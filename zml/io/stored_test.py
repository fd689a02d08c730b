"""Every dtype of the format: loaded bit for bit, or refused by its name."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from zml.dtypes import DType
from zml.errors import CheckpointError
from zml.io import TensorStore, load
from zml.io.safetensors import DTYPE_BITS, STORED
from zml.platform import Platform
from zml.testing import files, fresh


@cache
def _platform() -> Platform:
    return Platform.init("cpu")


@pytest.mark.parametrize("name", STORED)
def test_each_loads_bit_for_bit(name: str, tmp_path: Path) -> None:
    bits = fresh.generator().integers(
        0, 2 if name == "BOOL" else 256, 6 * 4 * DTYPE_BITS[name] // 8
    )
    raw = bits.astype(np.uint8).tobytes()
    header = {"a": {"dtype": name, "shape": [6, 4], "data_offsets": [0, len(raw)]}}
    (tmp_path / "model.safetensors").write_bytes(files.safetensors(header, raw))
    store = TensorStore.open(tmp_path)
    wide = name in ("I64", "U64", "F64")
    # The context of jax.enable_x64 is one thread's; loading has several.
    jax.config.update("jax_enable_x64", wide)
    try:
        loaded: Any = load(store.view().tensor("a", ("x", "y")), store, _platform())
        assert loaded.dtype == STORED[name]
        again = files.tensors({"a": loaded.numpy()})
    finally:
        jax.config.update("jax_enable_x64", False)
    assert again.endswith(raw) and f'"{name}"'.encode() in again


def test_the_low_half_of_a_byte_is_the_first_element(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F4", "shape": [2, 2], "data_offsets": [0, 2]}}
    (tmp_path / "model.safetensors").write_bytes(files.safetensors(header, b"\x21\xf7"))
    store = TensorStore.open(tmp_path)
    declared = store.view("f32").tensor("a", ("x", "y"), dtype="f4e2m1fn")
    loaded: Any = load(declared, store, _platform())
    assert loaded.numpy().astype(np.float32).tolist() == [[0.5, 1.0], [6.0, -6.0]]


@pytest.mark.parametrize("name", sorted(DTYPE_BITS.keys() - STORED.keys()))
def test_what_the_devices_have_no_type_for_is_refused(name: str, tmp_path: Path) -> None:
    assert name in ("F6_E2M3", "F6_E3M2")
    header = {"a": {"dtype": name, "shape": [4], "data_offsets": [0, 3]}}
    (tmp_path / "model.safetensors").write_bytes(files.safetensors(header, bytes(3)))
    store = TensorStore.open(tmp_path)
    for dtype in (None, "f32", "f8e4m3fn"):
        said = f"a is {name}, which zml has no element type on devices for"
        with pytest.raises(CheckpointError, match=said):
            store.check(store.view(dtype).tensor("a", {"x": 4}))


def test_only_floats_are_converted(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"a": np.ones(4, DType.F8E8M0FNU.numpy)})
    with pytest.raises(CheckpointError, match="a is F8_E8M0, expected F16 or BF16 or F32 or F64"):
        store.check(store.view("f32").tensor("a", ("x",)))
