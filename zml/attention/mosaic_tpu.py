"""Flash attention on TPUs (Dao et al., arXiv:2205.14135), a Pallas kernel for prompts and decode steps.

Blocks of keys that no row of a block of queries sees are neither computed nor read: the map of the blocks stays at the
last one that is, and the pipeline fetches no block twice in a row.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from zml.attention import rows, shards
from zml.attention.base import Availability, Call, Metadata, Parameters, Platform
from zml.attention.rows import HIDDEN, Mask, Rows
from zml.shape import Shape
from zml.tensor import Tensor

_TYPES = ("f32", "bf16")
_QUERIES, _KEYS = 512, 512
"""Rows and keys of a block: its scores take 1 MB of the core's memory."""
_LANES = 128


def is_available(platform: Platform) -> Availability:
    """On TPUs."""
    if str(platform.target) != "tpu":
        return Availability(f"it is for TPUs, not for {platform.target}")
    return Availability()


def supports(q: Shape, k: Shape, _parameters: Parameters) -> Availability:
    """Queries of f32 and bf16, head dims to 256, a tile of keys. Keys of other types are converted."""
    return rows.supports(q, k, _TYPES, range(8, 257), keys=8)


def metadata(_q: Shape, _k: Shape, _parameters: Parameters) -> Metadata:
    """It has no scratch."""
    return Metadata()


def attend(call: Call, _metadata: Metadata) -> Tensor:
    """See `Attention.__call__`."""
    k, v = (x.convert(call.q.dtype) for x in (call.k, call.v))
    return shards.attend(replace(call, k=k, v=v), _run)


def _run(xs: Sequence[Tensor], parameters: Parameters) -> Tensor:
    """The call of the kernel on one device."""
    call = Rows.of(xs)
    # Whole tiles: 16 rows of bf16, 8 of f32.
    q = call.pad(16)
    if q.shape[2] > _QUERIES:
        q = call.pad(_QUERIES)
    batch, heads, count, depth = q.shape
    length, width = call.v.shape[2:]
    block_q, block_k = min(count, _QUERIES), min(length, _KEYS)
    blocks = pl.cdiv(length, block_k)
    mask = Mask.of(call.group, parameters)
    shared = call.k.shape[0] == 1

    def at_q(b: Any, h: Any, i: Any, _j: Any, *_: Any) -> tuple[Any, ...]:
        return b, h, i, 0

    def at_k(b: Any, h: Any, i: Any, j: Any, start: Any, there: Any) -> tuple[Any, ...]:
        first, last, _ = _blocks(mask, i, block_q, block_k, blocks, start[b], there[b])
        return (0 if shared else b), h, jnp.clip(j, first, last), 0

    kernel = functools.partial(
        _kernel, mask=mask, scale=parameters.scale_for(depth), softcap=parameters.softcap, blocks=blocks
    )  # fmt: skip
    block = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
    found = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((batch, heads, count, width), q.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, heads, count // block_q, blocks),
            in_specs=[
                block((None, None, block_q, depth), at_q),
                block((None, None, block_k, depth), at_k),
                block((None, None, block_k, width), at_k),
            ],
            out_specs=block((None, None, block_q, width), at_q),
            scratch_shapes=[
                pltpu.VMEM((block_q, _LANES), jnp.float32),
                pltpu.VMEM((block_q, _LANES), jnp.float32),
                pltpu.VMEM((block_q, width), jnp.float32),
            ],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=rows.is_interpreted(),
        name="zml_attention",
    )(call.start, call.length, q, call.k, call.v)
    return call.result(found)


def _blocks(
    mask: Mask, i: Any, block_q: int, block_k: int, blocks: int, start: Any, length: Any
) -> tuple[Any, Any, Any]:
    """(first, last, whether any) of the blocks of keys that block i of the queries sees."""
    begin, end = mask.span(i * block_q, (i + 1) * block_q - 1, start, length)
    last = jnp.clip(rows.divide(end - 1, block_k), 0, blocks - 1)
    return jnp.clip(rows.divide(begin, block_k), 0, last), last, begin < end


def _kernel(
    start: Any, there: Any, q: Any, k: Any, v: Any, out: Any, highest: Any, total: Any, mixed: Any,
    *, mask: Mask, scale: float, softcap: float | None, blocks: int,
) -> None:  # fmt: skip
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    (block_q, _), (block_k, _) = q.shape, k.shape
    first, last, some = _blocks(mask, i, block_q, block_k, blocks, start[b], there[b])

    @pl.when(j == 0)
    def _begin() -> None:
        highest[...] = jnp.full_like(highest, HIDDEN)
        total[...] = jnp.zeros_like(total)
        mixed[...] = jnp.zeros_like(mixed)

    @pl.when(some & (j >= first) & (j <= last))
    def _block() -> None:
        shape = (block_q, block_k)
        row = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + i * block_q
        key = jax.lax.broadcasted_iota(jnp.int32, shape, 1) + j * block_k
        seen = mask.seen(row, key, start[b], there[b])
        scores = _dot(q[...], k[...], 1) * scale
        if softcap is not None:
            scores = jnp.tanh(scores / softcap) * softcap
        scores = jnp.where(seen, scores, HIDDEN)
        before = highest[:, :1]
        after = jnp.maximum(before, scores.max(1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - after), 0.0)
        faded = jnp.exp(before - after)
        total[...] = jnp.broadcast_to(
            total[:, :1] * faded + weights.sum(1, keepdims=True), total.shape
        )
        highest[...] = jnp.broadcast_to(after, highest.shape)
        # A weight of 0 does not silence a NaN: what a row does not see is cleared, and what it sees marks it.
        values = v[...].astype(jnp.float32)
        fine = jnp.abs(values) < jnp.inf
        clean = jnp.where(fine, values, 0.0).astype(v.dtype)
        mixed[...] = mixed[...] * faded + _dot(weights.astype(v.dtype), clean, 0)

        @pl.when(jnp.min(fine.astype(jnp.float32)) < 1.0)
        def _strange() -> None:
            marked = _dot(seen.astype(v.dtype), 1.0 - fine.astype(v.dtype), 0)
            mixed[...] = jnp.where(marked > 0.0, jnp.nan, mixed[...])

    @pl.when(j == blocks - 1)
    def _end() -> None:
        weight = total[:, :1]
        out[...] = (mixed[...] / jnp.where(weight == 0.0, 1.0, weight)).astype(out.dtype)


def _dot(a: Any, b: Any, axis: int) -> Any:
    """a times b, over that axis of b, in f32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (((1,), (axis,)), ((), ())), precision=exact, preferred_element_type=jnp.float32
    )
