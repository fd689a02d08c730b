"""Attention by native code on the CPU: see zml/kernels/cpu/native/attention.h.

A decode step reads the visible part of the cache once, where it lies and for all heads that share it. A prompt is done
block by block: there is no matrix of scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from zml.attention import vanilla
from zml.attention.base import Availability, Call, Metadata, Parameters, Platform
from zml.kernels.cpu import library
from zml.ops import constant
from zml.ops.memory import marks
from zml.shape import REPLICATED, AxisPartition, Shape
from zml.sharding import Sharding, manual_computation
from zml.tensor import Tensor

_TYPES = ("f32", "bf16", "f16")
_LETTERS = {"q": "r", "k": "r", "h": "h", "hd": "d"}
"""What the handler calls the axes: rows of queries or of keys. Any other is b, the sequences."""


def is_available(platform: Platform) -> Availability:
    """On the CPU, where the native library is."""
    if str(platform.target) != "cpu":
        return Availability(f"it is for the CPU, not for {platform.target}")
    # A platform knows whether its programs may call native code: a plugin's may not.
    if not getattr(platform, "has_kernels", True):
        return Availability("this platform calls no native kernels")
    return _library()


def supports(_q: Shape, _k: Shape, _parameters: Parameters) -> Availability:
    """Everything, where the native library is. Element types that it does not read are converted first."""
    return _library()


def _library() -> Availability:
    found = library.load()
    return Availability(found.reason if isinstance(found, library.Missing) else None)


def metadata(_q: Shape, _k: Shape, _parameters: Parameters) -> Metadata:
    """It has no scratch."""
    return Metadata()


def attend(call: Call, metadata: Metadata) -> Tensor:
    """See `Attention.__call__`. Its derivatives are those of the vanilla backend.

    Nothing is moved where hd is the last axis and there is at most one batch axis.
    """
    q, k, v = call.q, call.k, call.v
    if q.dtype not in _TYPES:
        return attend(replace(call, q=q.convert("f32")), metadata).convert(q.dtype)
    if k.dtype not in _TYPES or v.dtype != k.dtype:
        k, v = k.convert(q.dtype), v.convert(q.dtype)
    batch = {tag: dim for tag, dim in q.shape.items() if tag not in ("q", "h", "hd")}
    start = _numbers(call.start, batch)
    lengths = _numbers(k.dim("k") if call.lengths is None else call.lengths, batch)
    if len(batch) <= 1:
        return _attend((q, k, v, start, lengths), call.parameters)
    # One axis for all sequences; keys that all of them share need none.
    q = q.transpose(*batch, "q", "h", "hd")
    if any(tag in k.tags for tag in batch):
        k, v = (
            x.broadcast({**batch, **{tag: x.dim(tag) for tag in ("h", "k", "hd")}}) for x in (k, v)
        )
    merged = [
        x.merge(_b=list(batch)) if batch.keys() <= set(x.tags) else x
        for x in (q, k, v, start, lengths)
    ]
    return _attend(merged, call.parameters).split("_b", **batch)


def _numbers(x: Tensor | int, batch: Mapping[str, int]) -> Tensor:
    """A number for each sequence."""
    return (constant(x, dtype="i32") if isinstance(x, int) else x.convert("i32")).broadcast(batch)


def _attend(xs: Sequence[Tensor], parameters: Parameters) -> Tensor:
    """q, k, v, and start and lengths for each sequence, of which there is one axis at most."""
    q, k, v, start, lengths = xs
    q, k = (x if x.tags[-1] == "hd" else x.transpose(..., "hd") for x in (q, k))
    xs = (q, k, v.transpose(*k.tags), start, lengths)

    def tensors(arrays: Sequence[jax.Array]) -> list[Tensor]:
        return [x.with_value(array) for x, array in zip(xs, arrays, strict=True)]

    @jax.custom_jvp
    def native(*arrays: jax.Array) -> jax.Array:
        return _on_shards(tensors(arrays), parameters).value

    @native.defjvp
    def _tangent(primals: Any, tangents: Any) -> Any:
        def plain(*floats: jax.Array) -> jax.Array:
            q, k, v, start, lengths = tensors([*floats, *primals[3:]])
            call = Call(q, k, v, start, lengths, parameters)
            return vanilla.attend(call, Metadata()).transpose(*q.tags).value

        return native(*primals), jax.jvp(plain, primals[:3], tangents[:3])[1]

    return q.derive(native(*(x.value for x in xs)))


def _on_shards(xs: Sequence[Tensor], parameters: Parameters) -> Tensor:
    """On several devices for the heads and sequences of each."""
    q, k, v, *_ = xs
    scope = marks.get()
    sharding = None if scope is None else scope.sharding(k.shape)
    if sharding is None:
        return _run(xs, parameters)
    cuts = {tag: _cut(tag, q, k, sharding) for tag in q.tags if tag not in ("q", "hd")}
    shapes = [x.shape.partitioned(**{tag: cuts.get(tag, REPLICATED) for tag in x.tags}) for x in xs]
    result = shapes[0].set(hd=v.dim("hd"))

    def body(*shards: Tensor) -> Tensor:
        return _run(shards, parameters)

    found: Tensor = manual_computation(body, sharding, shapes, result, check=False)(*xs)
    return found


def _cut(tag: str, q: Tensor, k: Tensor, sharding: Sharding) -> AxisPartition:
    """How an axis of heads or sequences is cut: as the keys' is, so that a group stays with its head."""
    dims = [x.dim(tag) for x in (q, k) if tag in x.tags]
    for x in (k, q):
        cut = x.shape.partition(tag) if tag in x.tags else REPLICATED
        if isinstance(cut, str) and all(dim % sharding.size(cut) == 0 for dim in dims):
            return cut
    return REPLICATED


def _run(xs: Sequence[Tensor], parameters: Parameters) -> Tensor:
    """The native call."""
    q, k, v, start, lengths = xs
    dims = [v.dim(tag) if tag == "hd" else dim for tag, dim in q.shape.items()]
    native = jax.ffi.ffi_call(
        "zml_cpu_attention", jax.ShapeDtypeStruct(dims, q.dtype.numpy), vmap_method="sequential"
    )
    result = native(
        q.value, k.value, v.value, start.value.reshape(-1), lengths.value.reshape(-1),
        q_axes=_letters(q), k_axes=_letters(k), causal=parameters.causal,
        window=np.int64(parameters.window or 0), softcap=np.float32(parameters.softcap or 0),
        scale=np.float32(parameters.scale_for(q.dim("hd"))),
    )  # fmt: skip
    return q.derive(result)


def _letters(x: Tensor) -> str:
    return "".join(_LETTERS.get(tag, "b") for tag in x.tags)
