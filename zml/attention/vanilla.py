"""Attention in plain operations, for every platform: the reference that every other backend is compared with."""

from __future__ import annotations

from zml.attention.base import Availability, Call, Metadata, Parameters, Platform
from zml.ops import cond, iota, optimization_barrier
from zml.shape import Shape
from zml.tensor import Tensor

_INF = float("inf")


def is_available(_platform: Platform) -> Availability:
    """Everywhere."""
    return Availability()


def supports(_q: Shape, _k: Shape, _parameters: Parameters) -> Availability:
    """Everything."""
    return Availability()


def metadata(_q: Shape, _k: Shape, _parameters: Parameters) -> Metadata:
    """It has no scratch."""
    return Metadata()


def attend(call: Call, _metadata: Metadata) -> Tensor:
    """See `Attention.__call__`. Scores {h, q, group, k} are kept whole."""
    q, k, v, parameters = call.q, call.k.convert(call.q.dtype), call.v, call.parameters
    v = v.convert(q.dtype)
    # No key is repeated for the heads that share it: they are an axis of the queries.
    grouped = q.split("h", h=k.dim("h"), _group=-1)
    scores = grouped.dot(k, "hd", dtype="f32") * parameters.scale_for(q.dim("hd"))
    if parameters.softcap is not None:
        scores = (scores / parameters.softcap).tanh() * parameters.softcap
    visible = _visible(call)
    if visible is not None:
        scores = visible.broadcast(scores.shape).select(scores, -_INF)
    weights = scores.softmax("k")
    if visible is not None and call.lengths is not None:
        # The softmax of a query that sees nothing is NaN.
        weights = visible.any("k").broadcast(weights.shape).select(weights, 0.0)
    weights = weights.convert(q.dtype)
    mixed = weights.dot(v, "k")
    if visible is not None:
        mixed = _without_hidden(mixed, weights, v, visible)
    order = [part for tag in q.tags for part in (("h", "_group") if tag == "h" else (tag,))]
    return mixed.transpose(*order).merge(h=("h", "_group"))


def _visible(call: Call) -> Tensor | None:
    """Whether a query sees a key {q, k} and the batch tags of start and lengths; None if all see all."""
    parameters, start, lengths = call.parameters, call.start, call.lengths
    if not parameters.hides and lengths is None:
        return None
    dims: dict[str, int] = {}
    for x in (start, lengths):
        dims |= dict(x.shape.items()) if isinstance(x, Tensor) else {}
    shape = Shape({**dims, "q": call.q.dim("q"), "k": call.k.dim("k")}, "i32")
    key, query = iota(shape, "k"), iota(shape, "q") + _number(start, shape)
    # Not causal and a window: as far ahead as behind.
    seen = key.le(query) if parameters.causal else None
    if parameters.window is not None:
        near = key.gt(query - parameters.window)
        if seen is None:
            near &= key.lt(query + parameters.window)
        seen = near if seen is None else seen & near
    if lengths is not None:
        there = key.lt(_number(lengths, shape))
        seen = there if seen is None else seen & there
    return seen


def _number(x: Tensor | int, shape: Shape) -> Tensor | int:
    return x if isinstance(x, int) else x.convert("i32").broadcast(shape)


def _without_hidden(mixed: Tensor, weights: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """The mixed values, without what is not finite among those that a query does not see.

    A weight of 0 does not silence a NaN, such as an overflow of an earlier text may have left in the cache. Clearing v
    is done only where that shows: it would copy the cache in every step.
    """

    def cleared() -> Tensor:
        clean = weights.dot(v.is_finite().select(v, 0.0), "k")
        # One after the other, so that there is one copy of v at a time.
        after, clean = optimization_barrier((v, clean))
        strange = (~after.is_finite()).convert(v.dtype)
        # By head, as the product above: v stays as it lies in memory.
        heads = visible.broadcast({"h": v.dim("h"), **dict(visible.shape.items())})
        seen = heads.convert(v.dtype).dot(strange, "k")
        return seen.gt(0.0).broadcast(mixed.shape).select(mixed, clean)

    return cond(mixed.is_nan().any(), cleared, lambda: mixed)
