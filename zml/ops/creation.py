"""Tensors from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from zml.ops import _args
from zml.ops._args import Number
from zml.shape import Shape

if TYPE_CHECKING:
    from zml.tensor import Tensor


def constant(
    value: Number, shape: Shape | Mapping[str, int] | None = None, dtype: Any = None
) -> Tensor:
    """One number everywhere: `constant(1.5, {"s": 4}, "bf16")`, of rank 0 without a shape."""
    shape = _shape("constant", shape or {}, dtype)
    scalar = _args.literal("constant", value, shape.dtype)
    return _args.make(jnp.broadcast_to(scalar, shape.dims), shape)


def zeros(shape: Shape | Mapping[str, int], dtype: Any = None) -> Tensor:
    """0 (or False) everywhere: `zeros({"s": 4}, "f32")` or `zeros(x.shape)`."""
    shape = _shape("zeros", shape, dtype)
    return constant(False if shape.dtype == "bool" else 0, shape)


def ones(shape: Shape | Mapping[str, int], dtype: Any = None) -> Tensor:
    """1 (or True) everywhere."""
    shape = _shape("ones", shape, dtype)
    return constant(True if shape.dtype == "bool" else 1, shape)


def iota(shape: Shape | Mapping[str, int], tag: str, dtype: Any = None) -> Tensor:
    """Each element is its index along the axis `tag`: `iota({"q": 4, "k": 8}, "k", "i32")`."""
    shape = _shape("iota", shape, dtype)
    axis = shape.axis(tag)
    if shape.dtype.kind == "bool":
        raise _args.error("iota", "a bool counts nothing", shape, mend="ask for integers or floats")
    return _args.make(lax.broadcasted_iota(shape.dtype.numpy, shape.dims, axis), shape)


def arange(
    tag: str, start: float, stop: float | None = None, step: float = 1, *, dtype: Any = "i32"
) -> Tensor:
    """The numbers from start (or 0) up to but without stop: `arange("s", 16)`."""
    first, last = (0, start) if stop is None else (start, stop)
    if step == 0:
        raise _args.error("arange", "the step is 0", mend="give another one")
    count = max(0, int(np.ceil((last - first) / step)))
    shape = _shape("arange", {tag: count}, dtype)
    for number in (first, first + step * max(0, count - 1)):
        _args.literal("arange", number, shape.dtype)
    if step == 1 and isinstance(first, int):
        # No constant of that size in the program.
        return iota(shape, tag) + first if first else iota(shape, tag)
    numbers = first + step * np.arange(count)
    return _args.make(numbers.astype(shape.dtype.numpy), (tag,))


def linspace(tag: str, start: float, stop: float, count: int, *, dtype: Any = "f32") -> Tensor:
    """`count` numbers from start to stop, both included, equally far apart."""
    shape = _shape("linspace", {tag: count}, dtype)
    if shape.dtype.kind != "float":
        raise _args.error("linspace", f"{shape.dtype} is no float type", mend="ask for floats")
    return _args.make(np.linspace(start, stop, count).astype(shape.dtype.numpy), (tag,))


def _shape(op: str, shape: Shape | Mapping[str, int], dtype: Any) -> Shape:
    if isinstance(shape, Shape):
        shape = shape if dtype is None else shape.with_dtype(dtype)
    elif dtype is None:
        raise _args.error(
            op, "there is no element type", mend='give a Shape, or a dtype such as "f32"'
        )
    else:
        shape = Shape(shape, dtype)
    _args.element_type(op, shape.dtype)
    return shape
