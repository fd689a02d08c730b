from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zml.attention import attention
from zml.attention.cache import append

_RNG = np.random.default_rng(0)
_attention = cache(lambda: jax.jit(attention))


def _exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, start: int) -> np.ndarray:
    """Float64 loops over tokens and heads, reading nothing past a token's own position."""
    tokens, heads, head_dim = q.shape
    group = heads // k.shape[0]
    out = np.zeros(q.shape)
    for t in range(tokens):
        seen = slice(0, start + t + 1)
        for h in range(heads):
            keys, values = k[h // group, seen].astype(np.float64), v[h // group, seen]
            scores = keys @ q[t, h].astype(np.float64) / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ values.astype(np.float64) / weights.sum()
    return out


def _inputs(
    shape: tuple[int, int, int], kv_heads: int, length: int, dtype: Any = np.float32
) -> list[np.ndarray]:
    tokens, heads, head_dim = shape
    shapes = ((tokens, heads, head_dim),) + ((kv_heads, length, head_dim),) * 2
    return [_RNG.standard_normal(s).astype(dtype) for s in shapes]


@pytest.mark.parametrize(
    ("shape", "kv_heads", "length", "start"),
    [
        ((1, 4, 8), 4, 9, 8),  # MHA, decode at the cache's end
        ((1, 4, 8), 2, 9, 0),  # GQA, the first token
        ((5, 6, 10), 2, 13, 3),  # GQA, a chunk in the middle, odd sizes
        ((7, 3, 2), 1, 7, 0),  # MQA, a whole sequence
        ((3, 9, 6), 3, 11, 8),  # up to the end
    ],
)
def test_vanilla_against_float64(
    shape: tuple[int, int, int], kv_heads: int, length: int, start: int
) -> None:
    q, k, v = _inputs(shape, kv_heads, length)
    got = _attention()(q, k, v, jnp.int32(start))
    np.testing.assert_allclose(np.asarray(got), _exact(q, k, v, start), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(ml_dtypes.bfloat16, 2**-6), (np.float16, 2**-9)], ids=str
)
def test_half_precision_keeps_its_dtype(dtype: Any, tolerance: float) -> None:
    q, k, v = _inputs((4, 4, 16), 2, 12, dtype)
    got = _attention()(q, k, v, jnp.int32(5))
    assert got.dtype == dtype
    expected = _exact(q, k, v, 5)
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=4 * tolerance)


def test_scores_of_float16_do_not_overflow() -> None:
    # A score of 100 * 100 * 64 is beyond float16, and within float32.
    q, k = np.full((1, 1, 64), 100, np.float16), np.full((1, 2, 64), 100, np.float16)
    v = np.stack([np.ones((1, 64)), np.zeros((1, 64))], axis=1).astype(np.float16)
    got = _attention()(q, k, v, jnp.int32(1))
    np.testing.assert_array_equal(np.asarray(got), np.float16(0.5))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("tokens", "start"), [(1, 4), (3, 2), (1, 0)])
def test_the_part_of_the_cache_not_yet_valid_does_not_leak(
    tokens: int, start: int, poison: float
) -> None:
    q, k, v = _inputs((tokens, 4, 8), 2, 9)
    k[:, start + tokens :] = v[:, start + tokens :] = poison
    got = np.asarray(_attention()(q, k, v, jnp.int32(start)))
    np.testing.assert_allclose(got, _exact(q, k, v, start), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("start", [0, 2, 5])
def test_append_writes_there_and_nowhere_else(start: int) -> None:
    cached = _RNG.standard_normal((2, 8, 4)).astype(np.float32)
    new = _RNG.standard_normal((3, 2, 4)).astype(np.float16)
    got = np.asarray(append(jnp.asarray(cached), jnp.asarray(new), jnp.int32(start)))
    expected = cached.copy()
    expected[:, start : start + 3] = new.swapaxes(0, 1)
    np.testing.assert_array_equal(got, expected)
