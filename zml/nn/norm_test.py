from typing import Any

import numpy as np
import pytest

from zml.errors import ShapeError
from zml.io.view import View
from zml.nn import LayerNorm, RmsNorm
from zml.tensor import Tensor

_VIEW = View.blank("bf16")
_TOLERANCE = {"f32": 2e-6, "bf16": 2e-2, "f16": 3e-3}
type Array = np.ndarray[Any, Any]


def _draw(dtype: str = "f32", /, **dims: int) -> Tensor:
    values = np.random.default_rng().standard_normal(tuple(dims.values())).astype(np.float32)
    return Tensor(values, dims).convert(dtype)


def _wide(x: Tensor) -> Array:
    return np.asarray(x.value).astype(np.float64)


def _close(got: Tensor, expected: Array, dtype: str) -> None:
    tolerance = _TOLERANCE[dtype]
    np.testing.assert_allclose(
        _wide(got), expected, rtol=tolerance, atol=tolerance, equal_nan=False
    )


def _normal(x: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


@pytest.mark.parametrize("dtype", _TOLERANCE)
@pytest.mark.parametrize(("offset", "wide"), [(0.0, False), (1.0, True), (1.0, False), (0.0, True)])
def test_rms_norm_against_float64(dtype: str, offset: float, wide: bool) -> None:
    x, weight = _draw(dtype, b=2, s=3, d=33), _draw(dtype, d=33)
    got = RmsNorm(weight, 1e-5, offset, wide)(x)
    assert (got.shape, got.dtype) == (x.shape, dtype)
    _close(got, _normal(_wide(x), 1e-5) * (offset + _wide(weight)), dtype)


def test_wide_is_rounded_once_and_else_twice() -> None:
    # As Gemma and as Llama: with f16 the two differ in the last bits, which a golden test would show.
    x, weight = _draw("f16", s=64, d=32), _draw("f16", d=32)
    normal, scale = _normal(_wide(x), 1e-6), _wide(weight)
    once = (normal * scale).astype(np.float16)
    twice = (normal.astype(np.float16) * scale.astype(np.float16)).astype(np.float16)
    assert (once != twice).any()
    # float32 stands between: a value near the middle of two may fall to the other side.
    assert (np.asarray(RmsNorm(weight, 1e-6, wide=True)(x).value) == once).mean() > 0.99
    assert (np.asarray(RmsNorm(weight, 1e-6)(x).value) == twice).mean() > 0.99


@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_rms_norm_of_heads(dtype: str) -> None:
    x, weight = _draw(dtype, s=3, h=2, hd=10), _draw(dtype, hd=10)
    _close(RmsNorm(weight, 1e-6, tag="hd")(x), _normal(_wide(x), 1e-6) * _wide(weight), dtype)


def test_the_axis_may_be_anywhere() -> None:
    x, norm = _draw(d=5, s=3), RmsNorm(_draw(d=5), 1e-6)
    expected = np.asarray(norm(x.transpose("s", "d")).value).T
    np.testing.assert_allclose(norm(x).value, expected, rtol=1e-5, atol=1e-6)


def test_rms_norm_does_not_overflow_in_half_precision() -> None:
    # 300^2 is beyond float16: the mean square is taken in float32.
    x = Tensor(np.full(4, 300, np.float16), ("d",))
    one = Tensor(np.ones(4, np.float16), ("d",))
    np.testing.assert_allclose(RmsNorm(one, 1e-6)(x).value, 1.0)


def test_rms_norm_of_zeros_is_zero() -> None:
    zero = Tensor(np.zeros(8, np.float32), ("d",))
    assert not np.asarray(RmsNorm(_draw(d=8), 1e-6)(zero).value).any()


@pytest.mark.parametrize("dtype", _TOLERANCE)
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_against_float64(dtype: str, bias: bool) -> None:
    x, weight, shift = _draw(dtype, s=3, d=33), _draw(dtype, d=33), _draw(dtype, d=33)
    got = LayerNorm(weight, shift if bias else None, 1e-5)(x)
    wide = _wide(x)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = _normal(centred, 1e-5) * _wide(weight) + (_wide(shift) if bias else 0)
    _close(got, expected, dtype)


def test_layer_norm_of_large_equal_values_is_its_bias() -> None:
    x, shift = Tensor(np.full(64, 4096, np.float32), ("d",)), _draw(d=64)
    np.testing.assert_allclose(LayerNorm(_draw(d=64), shift, 1e-5)(x).value, shift.value)


def test_declared() -> None:
    norm = RmsNorm.init(
        _VIEW.prefix("q_norm"), 16, eps=1e-6, offset=1.0, wide=True, tag="hd", hd="model"
    )
    assert str(norm.weight.shape) == "{hd=16/model,bf16}"
    assert norm.weight.source is not None and norm.weight.source.name == "q_norm.weight"
    assert (norm.eps, norm.offset, norm.wide, norm.tag) == (1e-6, 1.0, True, "hd")
    layer = LayerNorm.init(_VIEW, 8, eps=1e-5)
    assert str(layer.weight.shape) == "{d=8,bf16}"
    assert layer.bias is not None
    assert LayerNorm.init(_VIEW, 8, eps=1e-5, bias=False).bias is None


def test_an_input_without_the_axis_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"no axis 'd'; given \{s=3,hd=4,f32\}"):
        RmsNorm(_draw(d=4), 1e-6)(_draw(s=3, hd=4))
