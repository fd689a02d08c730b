"""Calls of kernels, which are opaque to XLA: on several devices, with any batch axes, and with derivatives.

A kernel sees q with the tags q, h, hd, k and v with h, k, hd, in their own order but for hd, which is last; besides
these there is one batch axis at most, which keys may lack. start and lengths have a number for each sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from zml.attention import vanilla
from zml.attention.base import Call, Metadata, Parameters
from zml.ops import constant
from zml.ops.memory import marks
from zml.shape import REPLICATED, AxisPartition
from zml.sharding import Sharding, manual_computation
from zml.tensor import Tensor

type Kernel = Callable[[Sequence[Tensor], Parameters], Tensor]
"""(q, k, v, start, lengths), parameters -> the result, with the tags of q in its order."""


def attend(call: Call, kernel: Kernel) -> Tensor:
    """The result of a kernel. Its derivatives are those of the vanilla backend.

    Nothing is moved where hd is the last axis and there is at most one batch axis.
    """
    q, k, v = call.q, call.k, call.v
    batch = {tag: dim for tag, dim in q.shape.items() if tag not in ("q", "h", "hd")}
    start = _numbers(call.start, batch)
    lengths = _numbers(k.dim("k") if call.lengths is None else call.lengths, batch)
    if len(batch) <= 1:
        return _attend((q, k, v, start, lengths), call.parameters, kernel)
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
    return _attend(merged, call.parameters, kernel).split("_b", **batch)


def _numbers(x: Tensor | int, batch: Mapping[str, int]) -> Tensor:
    """A number for each sequence."""
    return (constant(x, dtype="i32") if isinstance(x, int) else x.convert("i32")).broadcast(batch)


def _attend(xs: Sequence[Tensor], parameters: Parameters, kernel: Kernel) -> Tensor:
    """q, k, v, and start and lengths for each sequence, of which there is one axis at most."""
    q, k, v, start, lengths = xs
    q, k = (x if x.tags[-1] == "hd" else x.transpose(..., "hd") for x in (q, k))
    xs = (q, k, v.transpose(*k.tags), start, lengths)

    def tensors(arrays: Sequence[jax.Array]) -> list[Tensor]:
        return [x.with_value(array) for x, array in zip(xs, arrays, strict=True)]

    @jax.custom_jvp
    def primal(*arrays: jax.Array) -> jax.Array:
        return _on_shards(tensors(arrays), parameters, kernel).value

    @primal.defjvp
    def _tangent(primals: Any, tangents: Any) -> Any:
        def plain(*floats: jax.Array) -> jax.Array:
            q, k, v, start, lengths = tensors([*floats, *primals[3:]])
            call = Call(q, k, v, start, lengths, parameters)
            return vanilla.attend(call, Metadata()).transpose(*q.tags).value

        return primal(*primals), jax.jvp(plain, primals[:3], tangents[:3])[1]

    return q.derive(primal(*(x.value for x in xs)))


def _on_shards(xs: Sequence[Tensor], parameters: Parameters, kernel: Kernel) -> Tensor:
    """On several devices for the heads and sequences of each."""
    q, k, v, *_ = xs
    scope = marks.get()
    sharding = None if scope is None else scope.sharding(k.shape)
    if sharding is None:
        return kernel(xs, parameters)
    cuts = {tag: _cut(tag, q, k, sharding) for tag in q.tags if tag not in ("q", "hd")}
    shapes = [x.shape.partitioned(**{tag: cuts.get(tag, REPLICATED) for tag in x.tags}) for x in xs]
    result = shapes[0].set(hd=v.dim("hd"))

    def body(*shards: Tensor) -> Tensor:
        return kernel(shards, parameters)

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
