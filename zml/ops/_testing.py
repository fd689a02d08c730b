"""For the tests of the operations: random tensors with their elements in float64, and comparison with numpy."""

from typing import Any

import numpy as np

from zml.dtypes import DType
from zml.tensor import Tensor

TOLERANCE = {"f64": 1e-12, "f32": 2e-5, "f16": 2e-3, "bf16": 2e-2, "c64": 2e-5}


def draw(
    seed: int, dtype: str = "f32", /, low: float = -2.0, high: float = 2.0, **dims: int
) -> tuple[Tensor, Any]:
    """A tensor of elements between low and high, and the same elements as float64 (or int64, complex128)."""
    rng = np.random.default_rng(seed)
    shape, kind = tuple(dims.values()), DType.of(dtype).kind
    if kind == "bool":
        values: Any = rng.random(shape) < 0.5
    elif kind == "int":
        values = rng.integers(int(low), int(high) + 1, shape)
    else:
        values = rng.uniform(low, high, shape)
    if kind == "complex":
        values = values + 1j * rng.uniform(low, high, shape)
    stored = np.asarray(values).astype(DType.of(dtype).numpy)
    wide = {"bool": np.bool_, "int": np.int64, "float": np.float64, "complex": np.complex128}[kind]
    return Tensor(stored, dims), stored.astype(wide)


def check(x: Tensor, expected: Any, tags: str, dtype: str) -> None:
    """Compares elements (in the tolerance of the type), tags ("s d") and element type."""
    assert x.tags == tuple(tags.split())
    assert x.dtype == dtype
    expected = np.asarray(expected)
    assert x.value.shape == expected.shape
    kind = x.dtype.kind
    if kind in ("bool", "int"):
        np.testing.assert_array_equal(
            np.asarray(x.value).astype(np.int64), expected.astype(np.int64)
        )
        return
    wide = np.complex128 if kind == "complex" else np.float64
    tolerance = TOLERANCE.get(dtype, 0.15)
    np.testing.assert_allclose(
        np.asarray(x.value).astype(wide), expected, rtol=tolerance, atol=tolerance
    )
