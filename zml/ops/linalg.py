"""Products of tensors, convolutions, factorizations and Fourier transforms. Axes meet by tag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from zml.ops import _args

if TYPE_CHECKING:
    from zml.tensor import Tensor

type Padding = int | tuple[int, int] | Literal["same"]
"""Zeros before and after an axis; "same" makes ceil(dim / stride) results."""


def dot(
    x: Tensor, y: Tensor, /, *tags: str, dtype: Any = None, precision: lax.PrecisionLike = None
) -> Tensor:
    """The sum of products over the axes `tags`, which x and y both have: `x.dot(w, "d")`.

    Other tags that both have are batch axes. The result has the batch axes (in the order of x), then the other axes of
    x, then those of y. `dtype` is the type of the result and of the sums, by default that of x and y; elements of less
    than a byte need one, and are converted to it before the product.
    """
    x, y = _args.tensor("dot", x), _args.tensor("dot", y)
    if not tags:
        raise _args.error(
            "dot", "no axis is named", x, y, mend="name those to sum over, or use outer()"
        )
    return _product("dot", x, y, tags, dtype, precision)


def outer(x: Tensor, y: Tensor, /) -> Tensor:
    """The product of each element of x with each of y. Tags that both have are batch axes."""
    x, y = _args.tensor("outer", x), _args.tensor("outer", y)
    return _product("outer", x, y, (), x.dtype, None)


def _product(
    op: str, x: Tensor, y: Tensor, tags: Sequence[str], dtype: Any, precision: lax.PrecisionLike
) -> Tensor:
    if x.dtype != y.dtype:
        raise _args.error(
            op, "the element types differ", x, y, mend="nothing is converted unasked: use convert()"
        )
    _args.require(op, x, "int", "float", "complex")
    for tag in tags:
        if tag not in x.tags or tag not in y.tags:
            side = "first" if tag not in x.tags else "second"
            raise _args.error(
                op,
                f"the {side} operand has no axis {tag!r}",
                x,
                y,
                mend="name axes that both have, or use rename()",
            )
    batch = [tag for tag in x.tags if tag in y.tags and tag not in tags]
    for tag in (*tags, *batch):
        if x.dim(tag) != y.dim(tag):
            mend = "equal tags must have equal dims" + (
                "; as it is not summed over it would be a batch axis: use rename() to keep both"
                * (tag in batch)
            )
            raise _args.error(
                op, f"the axis {tag!r} has {x.dim(tag)} and {y.dim(tag)} elements", x, y, mend=mend
            )
    left, right = x.value, y.value
    result = None if dtype is None else _args.element_type(op, dtype)
    if x.dtype.bits < 8:
        if result is None:
            raise _args.error(
                op,
                f"{x.dtype} is too narrow for the sums",
                x,
                y,
                mend='give their type: dtype="f32"',
            )
        # XLA's CPU backend has no product of packed elements with a wider result; elsewhere it fuses the conversion.
        left, right = left.astype(result.numpy), right.astype(result.numpy)
    value = lax.dot_general(
        left,
        right,
        (
            (_args.axes(op, x, tags), _args.axes(op, y, tags)),
            (_args.axes(op, x, batch), _args.axes(op, y, batch)),
        ),
        precision=precision,
        preferred_element_type=None if result is None else result.numpy,
    )
    own = [[tag for tag in z.tags if tag not in (*tags, *batch)] for z in (x, y)]
    return x.derive(value, [*batch, *own[0], *own[1]], y)


def conv1d(
    x: Tensor, kernel: Tensor, axis: str, window: str, /, *, channel: str, out: str,
    stride: int = 1, padding: Padding = 0, dilation: int = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """The cross-correlation along one axis, as the conv1d of PyTorch and JAX compute it.

    x has `axis` and `channel`, every other axis is a batch axis; kernel has `out`, `channel` (of x's channels / groups)
    and `window`. The result has x's axes, with `out` in place of `channel`.
    """
    return _conv(
        "conv1d",
        x,
        kernel,
        (axis,),
        (window,),
        channel,
        out,
        (stride,),
        (padding,),
        (dilation,),
        groups,
    )


def conv2d(
    x: Tensor, kernel: Tensor, axes: tuple[str, str], windows: tuple[str, str], /, *, channel: str, out: str,
    stride: tuple[int, int] = (1, 1), padding: tuple[Padding, Padding] = (0, 0),
    dilation: tuple[int, int] = (1, 1), groups: int = 1,
) -> Tensor:  # fmt: skip
    """As conv1d, along two axes: `x.conv2d(k, ("h", "w"), ("kh", "kw"), channel="c", out="o")`."""
    return _conv(
        "conv2d", x, kernel, axes, windows, channel, out, stride, padding, dilation, groups
    )


def _conv(
    op: str, x: Tensor, kernel: Tensor, axes: Sequence[str], windows: Sequence[str], channel: str, out: str,
    stride: Sequence[int], padding: Sequence[Padding], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    x, kernel = _args.tensor(op, x), _args.tensor(op, kernel)
    _args.axes(op, x, (*axes, channel))
    _args.fresh(op, x, (out,), leaving=(channel,))
    if x.dtype != kernel.dtype:
        raise _args.error(op, "the element types differ", x, kernel, mend="use convert() on one")
    if sorted(kernel.tags) != sorted((out, channel, *windows)):
        raise _args.error(
            op,
            f"the kernel needs exactly the axes {[out, channel, *windows]}",
            kernel,
            mend="use rename() on it",
        )
    if x.dim(channel) != kernel.dim(channel) * groups or kernel.dim(out) % groups:
        raise _args.error(
            op, f"{x.dim(channel)} channels do not meet {kernel.dim(channel)} in {groups} groups", x, kernel,
            mend="the kernel has channels / groups of them, and a multiple of groups as results",
        )  # fmt: skip
    batch = [tag for tag in x.tags if tag not in (*axes, channel)]
    order = _args.axes(op, x, (*batch, channel, *axes))
    moved = lax.transpose(x.value, order)
    value = lax.conv_general_dilated(
        moved.reshape(-1, *moved.shape[len(batch) :]),
        lax.transpose(kernel.value, _args.axes(op, kernel, (out, channel, *windows))),
        stride,
        [
            _amounts(pad, x.dim(tag), (kernel.dim(window) - 1) * dilate + 1, step)
            for pad, tag, window, dilate, step in zip(
                padding, axes, windows, dilation, stride, strict=True
            )
        ],
        rhs_dilation=dilation,
        feature_group_count=groups,
    )
    value = value.reshape(*moved.shape[: len(batch)], *value.shape[1:])
    back = sorted(range(x.rank), key=lambda position: order[position])
    tags = [out if tag == channel else tag for tag in x.tags]
    return x.derive(lax.transpose(value, back), tags, kernel)


def _amounts(padding: Padding, dim: int, window: int, stride: int) -> tuple[int, int]:
    if padding == "same":
        total = max(0, (-(-dim // stride) - 1) * stride + window - dim)
        return total // 2, total - total // 2
    return (padding, padding) if isinstance(padding, int) else padding


def cholesky(x: Tensor, row: str, column: str, /) -> Tensor:
    """The lower triangular L with L L^H = x, for symmetric positive definite x; NaN where it is not.

    Other axes are batch axes.
    """
    _square("cholesky", x, row, column)
    matrix, order = _matrix_last("cholesky", x, row, column)
    return x.derive(_put_back(lax.linalg.cholesky(matrix), order))


def triangular_solve(
    a: Tensor, b: Tensor, row: str, column: str, /, *, lower: bool = True
) -> Tensor:
    """The x with a x = b, for a triangular over `row` and `column`, of which one side is read.

    b has `row`, in whose place x has `column`. Other tags that both have are batch axes, others of b are columns.
    """
    op = "triangular_solve"
    a, b = _args.tensor(op, a), _args.tensor(op, b)
    _square(op, a, row, column)
    _args.axes(op, b, (row,))
    _args.fresh(op, b, (column,), leaving=(row,))
    batch = [tag for tag in a.tags if tag not in (row, column)]
    _args.axes(op, b, batch)
    if a.dtype != b.dtype or any(a.dim(tag) != b.dim(tag) for tag in (*batch, row)):
        raise _args.error(op, "element types or shared dims differ", a, b, mend="make them equal")
    order = _args.axes(op, b, [*batch, row, *(tag for tag in b.tags if tag not in (*batch, row))])
    moved = lax.transpose(b.value, order)
    left = lax.transpose(a.value, _args.axes(op, a, (*batch, row, column)))
    value = lax.linalg.triangular_solve(
        left, moved.reshape(*left.shape[:-1], -1), left_side=True, lower=lower
    )
    value = _put_back(value.reshape(moved.shape), order)
    return b.derive(value, [column if tag == row else tag for tag in b.tags], a)


def _square(op: str, x: Tensor, row: str, column: str) -> None:
    _args.axes(op, x, (row, column))
    _args.require(op, x, "float", "complex")
    if x.dim(row) != x.dim(column):
        raise _args.error(
            op, f"{row!r} and {column!r} differ in size", x, mend="the matrix must be square"
        )


def _matrix_last(op: str, x: Tensor, row: str, column: str) -> tuple[jax.Array, tuple[int, ...]]:
    rest = [tag for tag in x.tags if tag not in (row, column)]
    order = _args.axes(op, x, (*rest, row, column))
    return lax.transpose(x.value, order), order


def _put_back(value: jax.Array, order: Sequence[int]) -> jax.Array:
    """Undoes a transposition to `order`."""
    return lax.transpose(value, sorted(range(len(order)), key=lambda position: order[position]))


def fft(x: Tensor, /, *tags: str) -> Tensor:
    """The discrete Fourier transform over the named axes of complex numbers."""
    return _fft("fft", jnp.fft.fftn, x, tags, "complex")


def ifft(x: Tensor, /, *tags: str) -> Tensor:
    """The inverse of fft, divided by the number of elements."""
    return _fft("ifft", jnp.fft.ifftn, x, tags, "complex")


def rfft(x: Tensor, tag: str, /) -> Tensor:
    """The transform of real numbers along one axis: the dim // 2 + 1 frequencies that are not mirrored."""
    return _fft("rfft", lambda value, axes: jnp.fft.rfft(value, axis=axes[0]), x, (tag,), "float")


def irfft(x: Tensor, tag: str, /, size: int) -> Tensor:
    """The inverse of rfft, with `size` elements."""
    return _fft(
        "irfft", lambda value, axes: jnp.fft.irfft(value, size, axes[0]), x, (tag,), "complex"
    )


def _fft(
    op: str,
    f: Callable[..., jax.Array],
    x: Tensor,
    tags: Sequence[str],
    kind: Literal["float", "complex"],
) -> Tensor:
    if not tags:
        raise _args.error(op, "no axis is named", x, mend="name those to transform")
    positions = _args.axes(op, x, tags)
    _args.require(op, x, kind)
    if x.dtype.bits < 32:
        raise _args.error(op, f"{x.dtype} is too narrow", x, mend="convert it to f32")
    return x.derive(f(x.value, axes=positions))
