"""Operations that fold axes into one value, or run along them: sums, extremes, softmax, pooling.

Those that take `*tags` fold all axes if none is named, and the folded axes go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zml.ops import _args

if TYPE_CHECKING:
    from zml.dtypes import Kind
    from zml.tensor import Tensor


def _fold(
    op: str, f: Callable[..., jax.Array], x: Tensor, tags: tuple[str, ...], *kinds: Kind
) -> Tensor:
    _args.require(op, x, *kinds)
    positions = _args.axes(op, x, tags or x.tags)
    left = [tag for tag in x.tags if tags and tag not in tags]
    return x.derive(f(x.value, axis=positions), left)


def sum(x: Tensor, /, *tags: str, dtype: Any = None) -> Tensor:
    """The sum, in the element type of x or in `dtype`. 16-bit floats are added up in f32 and rounded once."""
    x = _wide_enough("sum", x, dtype)
    return _fold("sum", _keeping(jnp.sum, x), x, tags, "int", "float", "complex")


def prod(x: Tensor, /, *tags: str, dtype: Any = None) -> Tensor:
    """The product, in the element type of x or in `dtype`."""
    x = _wide_enough("prod", x, dtype)
    return _fold("prod", _keeping(jnp.prod, x), x, tags, "int", "float", "complex")


def mean(x: Tensor, /, *tags: str) -> Tensor:
    """The mean; NaN of no elements. 16-bit floats are added up in f32."""
    x = _wide_enough("mean", x, None)
    return _fold("mean", _keeping(jnp.mean, x), x, tags, "float", "complex")


def _wide_enough(op: str, x: Tensor, dtype: Any) -> Tensor:
    x = _args.tensor(op, x)
    if dtype is None and x.dtype.bits < 8:
        raise _args.error(
            op, f"{x.dtype} is too narrow for a sum", x, mend='convert it, or give dtype="f32"'
        )
    return x if dtype is None else x.convert(dtype)


def _keeping(f: Callable[..., jax.Array], x: Tensor) -> Callable[..., jax.Array]:
    """numpy widens the sums of small integers; here the result has the type of x."""
    return lambda value, axis: f(value, axis=axis, dtype=x.dtype.numpy)


def max(x: Tensor, /, *tags: str) -> Tensor:
    """The greatest element; NaN if there is one."""
    return _fold("max", jnp.max, _not_empty("max", x, tags), tags, "int", "float")


def min(x: Tensor, /, *tags: str) -> Tensor:
    """The least element; NaN if there is one."""
    return _fold("min", jnp.min, _not_empty("min", x, tags), tags, "int", "float")


def any(x: Tensor, /, *tags: str) -> Tensor:
    """Whether at least one is true."""
    return _fold("any", jnp.any, _args.tensor("any", x), tags, "bool")


def all(x: Tensor, /, *tags: str) -> Tensor:
    """Whether each is true."""
    return _fold("all", jnp.all, _args.tensor("all", x), tags, "bool")


def _not_empty(op: str, x: Tensor, tags: tuple[str, ...]) -> Tensor:
    for position in _args.axes(op, _args.tensor(op, x), tags or x.tags):
        if x.shape.dims[position] == 0:
            raise _args.error(
                op, f"the axis {x.tags[position]!r} is empty", x, mend="no element is the result"
            )
    return x


def argmax(x: Tensor, tag: str, /, dtype: Any = "i32") -> Tensor:
    """The index of the greatest element along an axis, the first of equal ones; of the first NaN if there is one."""
    return _arg("argmax", lax.argmax, x, tag, dtype)


def argmin(x: Tensor, tag: str, /, dtype: Any = "i32") -> Tensor:
    """The index of the least element along an axis, the first of equal ones; of the first NaN if there is one."""
    return _arg("argmin", lax.argmin, x, tag, dtype)


def _arg(op: str, f: Callable[..., jax.Array], x: Tensor, tag: str, dtype: Any) -> Tensor:
    _args.require(op, _not_empty(op, x, (tag,)), "int", "float")
    value = f(x.value, _args.axis(op, x, tag), _args.element_type(op, dtype).numpy)
    return x.derive(value, [other for other in x.tags if other != tag])


def cumsum(x: Tensor, tag: str, /, reverse: bool = False) -> Tensor:
    """The sum of each element and those before it along an axis; those after it if reversed."""
    _args.require("cumsum", _args.tensor("cumsum", x), "int", "float", "complex")
    return x.derive(lax.cumsum(x.value, _args.axis("cumsum", x, tag), reverse))


def cumprod(x: Tensor, tag: str, /, reverse: bool = False) -> Tensor:
    """The product of each element and those before it along an axis; those after it if reversed."""
    _args.require("cumprod", _args.tensor("cumprod", x), "int", "float", "complex")
    return x.derive(lax.cumprod(x.value, _args.axis("cumprod", x, tag), reverse))


def softmax(x: Tensor, /, *tags: str) -> Tensor:
    """exp(x) over its sum along the named axes; NaN where all of them are -inf."""
    return _along("softmax", jax.nn.softmax, x, tags)


def log_softmax(x: Tensor, /, *tags: str) -> Tensor:
    """log(softmax(x)) without the rounding of the softmax."""
    return _along("log_softmax", jax.nn.log_softmax, x, tags)


def _along(op: str, f: Callable[..., jax.Array], x: Tensor, tags: tuple[str, ...]) -> Tensor:
    _args.require(op, _args.tensor(op, x), "float")
    if not tags:
        raise _args.error(
            op, "no axis is named", x, mend="name those along which the result adds up to 1"
        )
    return x.derive(f(x.value, axis=_args.axes(op, x, tags)))


def logsumexp(x: Tensor, /, *tags: str) -> Tensor:
    """log(sum(exp(x))) without overflow; -inf of no elements."""
    return _fold("logsumexp", jax.nn.logsumexp, _args.tensor("logsumexp", x), tags, "float")


def max_pool(
    x: Tensor, window: Mapping[str, int], /, stride: Mapping[str, int] | None = None,
    padding: Mapping[str, tuple[int, int]] | None = None,
) -> Tensor:  # fmt: skip
    """The greatest element in each window: `x.max_pool({"h": 2, "w": 2})`.

    Windows follow one another, or start `stride` apart. What pads an axis is never chosen.
    """
    _args.require("max_pool", _args.tensor("max_pool", x), "int", "float")
    least = np.asarray(x.dtype.limits[0]).astype(x.dtype.numpy)
    return _pool("max_pool", lax.max, least, x, window, stride, padding)


def sum_pool(
    x: Tensor, window: Mapping[str, int], /, stride: Mapping[str, int] | None = None,
    padding: Mapping[str, tuple[int, int]] | None = None,
) -> Tensor:  # fmt: skip
    """The sum of each window, as max_pool."""
    _args.require("sum_pool", _args.tensor("sum_pool", x), "int", "float")
    return _pool("sum_pool", lax.add, np.zeros((), x.dtype.numpy), x, window, stride, padding)


def avg_pool(
    x: Tensor, window: Mapping[str, int], /, stride: Mapping[str, int] | None = None,
    padding: Mapping[str, tuple[int, int]] | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window, as max_pool. What pads an axis does not count (PyTorch: count_include_pad=False)."""
    _args.require("avg_pool", _args.tensor("avg_pool", x), "float")
    ones = x.derive(jnp.ones_like(x.value))
    return sum_pool(x, window, stride, padding) / sum_pool(ones, window, stride, padding)


def _pool(
    op: str, f: Callable[..., Any], start: Any, x: Tensor, window: Mapping[str, int],
    stride: Mapping[str, int] | None, padding: Mapping[str, tuple[int, int]] | None,
) -> Tensor:  # fmt: skip
    stride, padding = window if stride is None else stride, padding or {}
    _args.axes(op, x, window)
    for tag in (*stride, *padding):
        if tag not in window:
            raise _args.error(
                op, f"the axis {tag!r} has no window", x, mend="give its size, 1 if need be"
            )
    for tag, size in window.items():
        low, high = padding.get(tag, (0, 0))
        room = x.dim(tag) + low + high
        if not 1 <= size <= room or stride.get(tag, 1) < 1:
            raise _args.error(
                op, f"a window of {size} every {stride.get(tag, 1)} does not fit the {room} elements of {tag!r}", x,
                mend="give sizes and strides of 1 or more that fit",
            )  # fmt: skip
    value = lax.reduce_window(
        x.value,
        start,
        f,
        [window.get(tag, 1) for tag in x.tags],
        [stride.get(tag, 1) for tag in x.tags],
        [padding.get(tag, (0, 0)) for tag in x.tags],
    )
    return x.derive(value)
