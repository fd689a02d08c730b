import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zml.nn.layers import ACTIVATIONS, Linear, rms_norm

_RNG = np.random.default_rng(0)


def _exact_activation(name: str, x: float) -> float:
    if name in ("silu", "swish"):
        return x / (1 + math.exp(-x))
    if name == "relu":
        return max(x, 0.0)
    if name == "gelu":
        return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_follows_its_formula(name: str) -> None:
    xs = [-30.0, -3.0, -0.5, 0.0, 1e-3, 1.0, 4.0, 30.0]
    got = np.asarray(ACTIVATIONS[name](jnp.asarray(xs, jnp.float32)))
    np.testing.assert_allclose(got, [_exact_activation(name, x) for x in xs], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_x_times_w_transposed(shape: tuple[int, ...], bias: bool) -> None:
    x, w, b = (_RNG.standard_normal(s).astype(np.float32) for s in (shape, (5, 7), (5,)))
    got = Linear(jnp.asarray(w), jnp.asarray(b) if bias else None)(jnp.asarray(x))
    expected = x.astype(np.float64) @ w.astype(np.float64).T + (b if bias else 0)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 1e-6), (ml_dtypes.bfloat16, 2**-7), (np.float16, 2**-9)]
)
def test_rms_norm_against_float64(dtype: type, tolerance: float) -> None:
    x: np.ndarray = _RNG.standard_normal((3, 33)).astype(dtype)
    w: np.ndarray = _RNG.standard_normal(33).astype(dtype)
    got = rms_norm(jnp.asarray(x), jnp.asarray(w), 1e-5)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * w.astype(np.float64)
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=tolerance, atol=1e-6)


def test_rms_norm_does_not_overflow_in_half_precision() -> None:
    # 300^2 is beyond float16: the mean square is taken in float32.
    x = jnp.full((4,), 300.0, jnp.float16)
    np.testing.assert_allclose(np.asarray(rms_norm(x, jnp.ones(4, jnp.float16), 1e-6)), 1.0)


def test_rms_norm_of_zeros_is_zero() -> None:
    assert not np.asarray(rms_norm(jnp.zeros(8), jnp.ones(8), 1e-6)).any()
