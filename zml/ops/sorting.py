"""Sorting along an axis. All sorts are stable; NaN counts as the greatest value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from zml.ops import _args

if TYPE_CHECKING:
    from zml.tensor import Tensor


def sort(x: Tensor, tag: str, /, descending: bool = False) -> Tensor:
    """The elements in order along an axis."""
    position = _position("sort", x, tag)
    return x.derive(jnp.sort(x.value, axis=position, descending=descending))


def argsort(x: Tensor, tag: str, /, descending: bool = False) -> Tensor:
    """The indices (i32) of the elements in order along an axis; equal ones stay in theirs."""
    order = jnp.argsort(x.value, axis=_position("argsort", x, tag), descending=descending)
    return x.derive(order.astype("int32"))


def top_k(x: Tensor, tag: str, k: int, /) -> tuple[Tensor, Tensor]:
    """The k greatest elements along an axis, in descending order, and their indices (i32).

    Of equal ones the first comes first.
    """
    position = _position("top_k", x, tag)
    if not 0 <= k <= x.dim(tag):
        raise _args.error(
            "top_k", f"{k} of the {x.dim(tag)} elements of {tag!r}", x, mend="take as many or fewer"
        )
    values, indices = lax.top_k(jnp.moveaxis(x.value, position, -1), k)
    return (
        x.derive(jnp.moveaxis(values, -1, position)),
        x.derive(jnp.moveaxis(indices, -1, position).astype("int32")),
    )


def _position(op: str, x: Tensor, tag: str) -> int:
    position = _args.axis(op, _args.tensor(op, x), tag)
    _args.require(op, x, "bool", "int", "float")
    return position
