"""The kernels that are measured. To add one, write a function here and put @kernel over it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from zml.attention import Attention
from zml.kernels.cpu import linear
from zml.kernels.cpu.formats import Format, Packed
from zml.tensor import Tensor


@dataclass(frozen=True)
class Sizes:
    """Of a Llama. `cold_bytes`: what is read between two uses of the same weight, so that no cache holds it."""

    hidden: int = 2048
    ffn: int = 8192
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    context: int = 4096
    cold_bytes: int = 256 << 20


@dataclass(frozen=True)
class Case:
    """Calls of one function, with each of `arguments` in turn.

    A call reads so many bytes of weights or of the cache, and does so many multiplications and additions.
    """

    call: Callable[..., Any]
    arguments: Sequence[tuple[Any, ...]]
    bytes: int
    flops: float


type Kernel = Callable[[Sizes, int, bool], Case]
"""A case of so many rows of activations, by the native kernels or by XLA."""

KERNELS: dict[str, Kernel] = {}


def kernel(*names: str) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    """Registers a function (sizes, rows, native) of one kernel, or one (name, sizes, rows, native) of several."""

    def register(function: Callable[..., Case]) -> Callable[..., Case]:
        for name in names:
            KERNELS[name] = functools.partial(function, name) if len(names) > 1 else function
        return function

    return register


@kernel("bf16", "f16", "f32", "int8", "int8_channel", "int4")
def product(name: str, sizes: Sizes, rows: int, native: bool) -> Case:
    """x [rows, hidden] times a weight [ffn, hidden]; x is bf16, of an f32 or f16 weight the same."""
    weights = list(_weights(name, sizes, 1 if rows > 16 else sizes.cold_bytes))
    x = _floats((rows, sizes.hidden), name if name in ("f32", "f16") else "bf16")
    run = _linear if native else _xla_product
    return Case(
        jax.jit(run),
        [(x, weight) for weight in weights],
        _size(weights[0]),
        2.0 * rows * sizes.hidden * sizes.ffn,
    )


@kernel("gated bf16", "gated int8", "gated int4")
def gated(name: str, sizes: Sizes, rows: int, native: bool) -> Case:
    """silu(x gate^T) * (x up^T) in one call."""
    each = 1 if rows > 16 else sizes.cold_bytes
    weights = list(_weights(name.removeprefix("gated "), sizes, each, at_least=2))
    weights = weights[: len(weights) // 2 * 2]
    x = _floats((rows, sizes.hidden), "bf16")
    run = linear.gated if native else linear.reference_gated
    return Case(
        jax.jit(lambda x, gate, up: run(x, gate, up, "silu")),
        [(x, *pair) for pair in zip(weights[::2], weights[1::2], strict=True)],
        2 * _size(weights[0]),
        4.0 * rows * sizes.hidden * sizes.ffn,
    )


@kernel("attention")
def attention(sizes: Sizes, rows: int, native: bool) -> Case:
    """Up to 16 rows: queries at the end of a context of bf16. More: a prompt of so many tokens, without a cache."""
    context = rows if rows > 16 else sizes.context
    run = Attention.using("cpu_flash" if native else "vanilla")
    q = _floats((rows, sizes.heads, sizes.head_dim), "bf16")
    cache = (sizes.kv_heads, context, sizes.head_dim)
    size = 2 * int(np.prod(cache)) * 2
    sets = 1 if rows > 16 else -(-sizes.cold_bytes // size)

    def call(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        xs = (Tensor(q, ("q", "h", "hd")), *(Tensor(x, ("h", "k", "hd")) for x in (k, v)))
        return jnp.asarray(run(*xs, start=context - rows).value)

    seen = context - (rows - 1) / 2  # keys of a query, on average
    return Case(
        jax.jit(call),
        [(q, _floats(cache, "bf16"), _floats(cache, "bf16")) for _ in range(sets)],
        size,
        4.0 * rows * seen * sizes.heads * sizes.head_dim,
    )


def _linear(x: jax.Array, weight: linear.Weight) -> jax.Array:
    return linear.linear(x, (weight,))[0]


def _xla_product(x: jax.Array, weight: linear.Weight) -> jax.Array:
    if isinstance(weight, Packed):
        return linear.reference_linear(x, (weight,))[0]
    # What a program says that knows of no kernels.
    return jnp.dot(x, weight.T)


_TYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}


def _floats(dims: tuple[int, ...], name: str) -> jax.Array:
    values = np.random.default_rng().standard_normal(dims, np.float32)
    return jnp.asarray(values.astype(_TYPES[name]))


def _size(weight: linear.Weight) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(weight))


def _weights(name: str, sizes: Sizes, total: int, at_least: int = 1) -> Iterator[linear.Weight]:
    """Weights [ffn, hidden] of so many bytes together."""
    first = _weight(name, sizes)
    yield first
    for _ in range(max(at_least, -(-total // _size(first))) - 1):
        # The numbers are the same, the memory is another.
        yield jax.tree.map(jnp.copy, first)


def _weight(name: str, sizes: Sizes) -> linear.Weight:
    dims = (sizes.ffn, sizes.hidden)
    if name in _TYPES:
        return _floats(dims, name)
    format = Format(name)
    rng = np.random.default_rng()
    values = rng.integers(0, 256, format.values_dims(*dims), np.uint8).view(format.values_dtype)
    scales = rng.uniform(0.01, 0.02, format.scales_dims(*dims)).astype(format.scales_dtype)
    return Packed(jnp.asarray(values), jnp.asarray(scales), *dims, format)
