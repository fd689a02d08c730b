"""What the Pallas kernels work on: the queries of the heads that share keys, as rows of one matrix.

A prompt and a decode step are then the same: a decode step of grouped heads has a row for each head of the group, and
the cache is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from zml.attention.base import Availability, Parameters
from zml.shape import Shape
from zml.tensor import Tensor

HIDDEN = -1e30
"""The score of a key that is not seen: finite, so that rows that see nothing make no NaN."""
_FAR = 1 << 22
"""A window of so many positions hides nothing that there is; times a group of heads it is still an int32."""
_interpreted: ContextVar[bool] = ContextVar("zml.attention.rows", default=False)


@contextmanager
def interpreted() -> Iterator[None]:
    """What is traced inside runs the kernels' operations one by one, on any platform: for tests of their numerics."""
    token = _interpreted.set(True)
    try:
        yield
    finally:
        _interpreted.reset(token)


def is_interpreted() -> bool:
    """Whether the kernels are to be interpreted."""
    return _interpreted.get()


def supports(
    q: Shape, k: Shape, types: Sequence[str], head_dims: Sequence[int], keys: int = 1
) -> Availability:
    """Whether a kernel of these element types and head dims, for so many keys or more, can do a call."""
    if str(q.dtype) not in types:
        return Availability(f"its queries are {', '.join(types)}, not {q.dtype}")
    if q.dim("hd") not in head_dims:
        sizes = ", ".join(map(str, head_dims))
        if len(head_dims) > 9:
            sizes = f"{head_dims[0]}, ..., {head_dims[-1]}"
        return Availability(f"its head dims are {sizes}, not {q.dim('hd')}")
    if k.dim("k") < keys or 0 in q.dims or 0 in k.dims:
        return Availability(f"it takes {keys} keys or more, and at least one of all else")
    return Availability()


def divide(x: Any, by: int) -> jax.Array:
    """x // by for a number that is not below 0: Python's rule for those that are takes kernels many operations."""
    return jax.lax.div(jnp.int32(x), jnp.int32(by))


@dataclass(frozen=True)
class Mask:
    """Which keys a row sees. All is comparisons of row numbers: row r is of the query at start + r // group."""

    group: int
    causal: bool
    window: int | None

    @staticmethod
    def of(group: int, parameters: Parameters) -> Mask:
        """The mask for rows of groups of heads."""
        window = None if parameters.window is None else min(parameters.window, _FAR)
        return Mask(group, parameters.causal, window)

    def seen(self, row: Any, key: Any, start: Any, length: Any) -> Any:
        """Whether rows see keys, of two matrices of numbers."""
        # r // group >= x is r >= x * group.
        seen = key < length
        if self.causal:
            seen &= row >= (key - start) * self.group
        if self.window is not None:
            seen &= row < (key + self.window - start) * self.group
            if not self.causal:
                seen &= row >= (key - self.window + 1 - start) * self.group
        return seen

    def span(self, first: Any, last: Any, start: Any, length: Any) -> tuple[Any, Any]:
        """(begin, end) of the keys that rows from first to last may see; nothing where begin >= end."""
        early, late = start + divide(first, self.group), start + divide(last, self.group)
        begin, end = jnp.int32(0), length
        if self.causal:
            end = jnp.minimum(end, late + 1)
        elif self.window is not None:
            end = jnp.minimum(end, late + self.window)
        if self.window is not None:
            begin = jnp.maximum(begin, early - self.window + 1)
        return begin, end


@dataclass(frozen=True)
class Rows:
    """A call of a kernel as arrays: q [b, h, rows, hd], k and v [b or 1, h, k, hd], start and length [b]."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    start: jax.Array
    length: jax.Array
    group: int
    _query: Tensor
    _width: int

    @staticmethod
    def of(xs: Sequence[Tensor]) -> Rows:
        """Of q, k, v, start and lengths, as zml.attention.shards gives them. k and v stay where they lie in memory."""
        q, k, v, start, length = xs
        batch = [tag for tag in q.tags if tag not in ("q", "h", "hd")]
        heads, group = k.dim("h"), q.dim("h") // k.dim("h")
        rows = q.transpose(*batch, "h", "q", "hd").value
        count = q.dim(batch[0]) if batch else 1
        rows = rows.reshape(count, heads, group, q.dim("q"), q.dim("hd"))
        rows = rows.swapaxes(2, 3).reshape(count, heads, q.dim("q") * group, q.dim("hd"))
        own = [tag for tag in batch if tag in k.tags]
        keys, values = (x.transpose(*own, "h", "k", "hd").value for x in (k, v))
        if not own:
            keys, values = keys[None], values[None]
        # Keys that are not there are not counted: what lies behind the last one is no part of it.
        there = jnp.minimum(length.value.reshape(count), jnp.int32(k.dim("k")))
        return Rows(
            rows, keys, values, start.value.reshape(count), there, group, q, v.dim("hd")
        )  # fmt: skip

    def pad(self, multiple: int) -> jax.Array:
        """q with rows of zeros up to a multiple."""
        more = -self.q.shape[2] % multiple
        return jnp.pad(self.q, ((0, 0), (0, 0), (0, more), (0, 0))) if more else self.q

    def result(self, rows: jax.Array) -> Tensor:
        """The result of a kernel [b, h, rows or more, hd] as a tensor like q."""
        q = self._query
        batch = [tag for tag in q.tags if tag not in ("q", "h", "hd")]
        count, heads = rows.shape[:2]
        rows = rows[:, :, : self.q.shape[2]]
        rows = rows.reshape(count, heads, q.dim("q"), self.group, self._width).swapaxes(2, 3)
        dims = {tag: q.dim(tag) for tag in batch} | {"h": q.dim("h"), "q": q.dim("q")}
        dims |= {"hd": self._width}
        found = Tensor(rows.reshape(tuple(dims.values())), tuple(dims))
        return found.transpose(*q.tags)
