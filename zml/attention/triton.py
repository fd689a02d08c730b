"""Flash attention on NVIDIA GPUs, a Pallas kernel that XLA compiles with its own Triton: for cuda_fa2 and cuda_fa3.

After FlashAttention-2 (Dao, arXiv:2307.08691): a program has a block of queries and goes over the blocks of keys that
they see. Where that makes too few programs for the chip, as in a decode step, several share the keys and their results
are joined afterwards (Flash-Decoding).

cuDNN's attention and the Mosaic GPU kernels of JAX know no cache: neither queries that start at a position that is
known at run time, nor keys that are hidden though they are NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from zml.attention import rows, shards, vanilla
from zml.attention.base import Availability, Call, Metadata, Parameters, Platform
from zml.attention.rows import HIDDEN, Mask, Rows
from zml.shape import Shape
from zml.tensor import Tensor

_TYPES = ("f32", "bf16", "f16")
HEAD_DIMS = (16, 32, 64, 128, 256)
"""Triton's blocks are powers of two."""
_PROGRAMS = 128
"""About as many as there are cores: fewer leave some idle."""
_SHARE = 256
"""Keys that are worth a program of their own."""


@dataclass(frozen=True)
class Tiles:
    """How a generation of chips is used: rows and keys of a block of 16-bit elements, by head dim."""

    queries: int
    keys: int
    warps: int
    stages: int

    def fit(self, dtype: Any, depth: int) -> Tiles:
        """For a type and a head dim. What a block holds in shared memory and registers stays the same."""
        if jnp.dtype(dtype).itemsize > 2:
            return replace(self, queries=32, keys=32, warps=8, stages=1)
        return self if depth <= 128 else replace(self, queries=64, keys=32, warps=8)


def capability(platform: Platform) -> tuple[int, int] | None:
    """The compute capability of a platform's devices; None where it has none."""
    devices = getattr(platform, "devices", ())
    text = str(devices[0].attributes.get("compute_capability", "")) if devices else ""
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None


def is_available(
    platform: Platform, what: str, least: tuple[int, int], most: tuple[int, int]
) -> Availability:
    """On NVIDIA GPUs of compute capabilities from `least` to `most`; `what` names them."""
    if str(platform.target) != "cuda":
        return Availability(f"it is for {what}, not for {platform.target}")
    has = capability(platform)
    if has is None:
        return Availability(f"it is for {what}; this platform does not say its compute capability")
    if not least <= has <= most:
        return Availability(f"it is for {what}, not for {has[0]}.{has[1]}")
    return Availability()


def supports(q: Shape, k: Shape) -> Availability:
    """Queries of f32, bf16 and f16, and head dims that are powers of two. Keys of other types are converted."""
    return rows.supports(q, k, _TYPES, HEAD_DIMS)


def attend(call: Call, tiles: Tiles) -> Tensor:
    """See `Attention.__call__`."""
    if call.v.dim("hd") not in HEAD_DIMS:
        return vanilla.attend(call, Metadata())
    k, v = (x.convert(call.q.dtype) for x in (call.k, call.v))
    return shards.attend(replace(call, k=k, v=v), functools.partial(_run, tiles=tiles))


def _run(xs: Sequence[Tensor], parameters: Parameters, *, tiles: Tiles) -> Tensor:
    """The call of the kernel on one device."""
    call = Rows.of(xs)
    batch, heads, count, depth = call.q.shape
    length, width = call.v.shape[2:]
    tiles = tiles.fit(call.q.dtype, max(depth, width))
    # The tensor cores take 16 rows or more.
    block_q = max(16, min(tiles.queries, pl.next_power_of_2(count)))
    q = call.pad(block_q)
    blocks = q.shape[2] // block_q
    splits = max(1, min(_PROGRAMS // (blocks * heads * batch), pl.cdiv(length, _SHARE)))
    # Whole blocks for each, and the last may have none.
    share = pl.cdiv(pl.cdiv(length, tiles.keys), splits)
    shared = call.k.shape[0] == 1

    def at_q(i: Any, _split: Any, place: Any) -> tuple[Any, ...]:
        b = rows.divide(place, heads)
        return b, place - b * heads, i, 0

    def at_k(_i: Any, _split: Any, place: Any) -> tuple[Any, ...]:
        b = rows.divide(place, heads)
        return (0 if shared else b), place - b * heads, 0, 0

    def at_out(i: Any, split: Any, place: Any) -> tuple[Any, ...]:
        return split, *at_q(i, split, place)

    kernel = functools.partial(
        _kernel, mask=Mask.of(call.group, parameters), scale=parameters.scale_for(depth),
        softcap=parameters.softcap, block_k=tiles.keys, share=share, heads=heads,
    )  # fmt: skip
    numbers = pl.BlockSpec((batch,), lambda *_: (0,))
    sums_at = pl.BlockSpec((None, None, None, block_q), lambda *at: at_out(*at)[:-1])
    sums = jax.ShapeDtypeStruct((splits, *q.shape[:3]), jnp.float32)
    dtype = q.dtype if splits == 1 else jnp.float32
    mixed, highest, total = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct((splits, *q.shape[:3], width), dtype), sums, sums],
        grid=(blocks, splits, batch * heads),
        in_specs=[
            numbers,
            numbers,
            pl.BlockSpec((None, None, block_q, depth), at_q),
            pl.BlockSpec((None, None, length, depth), at_k),
            pl.BlockSpec((None, None, length, width), at_k),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, block_q, width), at_out),
            sums_at,
            sums_at,
        ],
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=rows.is_interpreted(),
        name="zml_attention",
    )(call.start, call.length, q, call.k, call.v)
    return call.result(mixed[0] if splits == 1 else _join(mixed, highest, total).astype(q.dtype))


def _join(mixed: jax.Array, highest: jax.Array, total: jax.Array) -> jax.Array:
    """The means of all keys, from the means of each share of them."""
    weight = total * jnp.exp(highest - highest.max(0))
    # A share that sees nothing weighs nothing.
    whole = weight.sum(0)
    weight = weight / jnp.where(whole == 0.0, 1.0, whole)
    return (mixed * weight[..., None]).sum(0)


def _kernel(
    start: Any, there: Any, q: Any, k: Any, v: Any, out: Any, highest: Any, total: Any,
    *, mask: Mask, scale: float, softcap: float | None, block_k: int, share: int, heads: int,
) -> None:  # fmt: skip
    i, split = pl.program_id(0), pl.program_id(1)
    b = rows.divide(pl.program_id(2), heads)
    begins, length = start[b], there[b]
    queries = q[...]
    block_q = q.shape[0]
    row = (i * block_q + jnp.arange(block_q))[:, None]
    begin, end = mask.span(i * block_q, (i + 1) * block_q - 1, begins, length)
    first = jnp.maximum(rows.divide(begin, block_k), split * share)
    # Rounded up; there may be no key at all.
    last = rows.divide(jnp.maximum(end, 0) + (block_k - 1), block_k)
    last = jnp.minimum(last, (split + 1) * share)

    def block(j: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        mixed, highest, total = carry
        key = j * block_k + jnp.arange(block_k)
        inside = (key < k.shape[0])[:, None]
        part = pl.ds(j * block_k, block_k)
        keys = plgpu.load(k.at[part, :], mask=inside, other=0.0)
        seen = mask.seen(row, key[None, :], begins, length)
        scores = _dot(queries, keys.T) * scale
        if softcap is not None:
            scores = jnp.tanh(scores / softcap) * softcap
        scores = jnp.where(seen, scores, HIDDEN)
        after = jnp.maximum(highest, scores.max(1))
        weights = jnp.where(seen, jnp.exp(scores - after[:, None]), 0.0)
        faded = jnp.exp(highest - after)
        total = total * faded + weights.sum(1)
        # A weight of 0 does not silence a NaN: what a row does not see is cleared, and what it sees marks it.
        values = plgpu.load(v.at[part, :], mask=inside, other=0.0)
        fine = jnp.abs(values.astype(jnp.float32)) < jnp.inf
        clean = jnp.where(fine, values, jnp.zeros_like(values))
        mixed = mixed * faded[:, None] + _dot(weights.astype(v.dtype), clean)
        strange = jnp.where(fine, 0.0, 1.0)

        def marked() -> Any:
            hits = _dot(seen.astype(v.dtype), strange.astype(v.dtype))
            return jnp.where(hits > 0.0, jnp.nan, mixed)

        mixed = jax.lax.cond(strange.max(1).max(0) > 0.0, marked, lambda: mixed)
        return mixed, after, total

    empty = (
        jnp.zeros((block_q, v.shape[1]), jnp.float32),
        jnp.full((block_q,), HIDDEN, jnp.float32),
        jnp.zeros((block_q,), jnp.float32),
    )
    means, most, weight = jax.lax.fori_loop(first, last, block, empty)
    means = means / jnp.where(weight == 0.0, 1.0, weight)[:, None]
    out[...] = means.astype(out.dtype)
    highest[...] = most
    total[...] = weight


def _dot(a: Any, b: Any) -> Any:
    """The product in f32, and of f32 not of what its tensor cores keep of it."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, precision=exact, preferred_element_type=jnp.float32)
