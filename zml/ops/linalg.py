"""Products of tensors, convolutions, factorizations and Fourier transforms. Axes meet by tag."""

from __future__ import annotations

import math
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
    if x.dtype != y.dtype:
        mend = "nothing is converted unasked: use convert()"
        raise _args.error("dot", "the element types differ", x, y, mend=mend)
    _args.require("dot", x, "int", "float", "complex")
    for tag in tags:
        if tag not in x.tags or tag not in y.tags:
            side = "first" if tag not in x.tags else "second"
            mend = "name axes that both have, or use rename()"
            raise _args.error("dot", f"the {side} operand has no axis {tag!r}", x, y, mend=mend)
    _args.axes("dot", x, tags)
    batch = [tag for tag in x.tags if tag in y.tags and tag not in tags]
    _meet("dot", x, y, batch, tags)
    left, right = x.value, y.value
    result = None if dtype is None else _args.element_type("dot", dtype)
    if x.dtype.bits < 8:
        if result is None:
            mend = 'give their type: dtype="f32"'
            raise _args.error("dot", f"{x.dtype} is too narrow for the sums", x, y, mend=mend)
        # XLA's CPU backend has no product of packed elements with a wider result; elsewhere it fuses the conversion.
        left, right = left.astype(result.numpy), right.astype(result.numpy)
    own = [[tag for tag in z.tags if tag not in (*tags, *batch)] for z in (x, y)]
    summed = sorted(tags, key=x.tags.index)
    # As matrices where they can be: XLA's CPU backend copies an operand of more axes, transposed, in every call.
    together = _mergeable(x, summed) and _mergeable(y, summed)
    sums = summed[:1] if together else summed
    axes = []
    for z, value, free in ((x, left, own[0]), (y, right, own[1])):
        merged = [summed[1:] if together else [], free[1:] if _mergeable(z, free) else []]
        gone = {tag for group in merged for tag in group}
        kept = [tag for tag in z.tags if tag not in gone]
        dims = {tag: z.dim(tag) for tag in kept}
        for group, first in zip(merged, (summed[:1], free[:1]), strict=True):
            if group:
                dims[first[0]] *= math.prod(z.dim(tag) for tag in group)
        axes.append((value.reshape(tuple(dims.values())), kept))
    (left, left_tags), (right, right_tags) = axes
    summing, batching = (
        (tuple(map(left_tags.index, some)), tuple(map(right_tags.index, some)))
        for some in (sums, batch)
    )
    value = lax.dot_general(
        left,
        right,
        (summing, batching),
        precision=precision,
        preferred_element_type=None if result is None else result.numpy,
    )
    found = [*((x, tag) for tag in (*batch, *own[0])), *((y, tag) for tag in own[1])]
    value = value.reshape(tuple(z.dim(tag) for z, tag in found))
    return x.derive(value, [tag for _, tag in found], y)


def _mergeable(x: Tensor, tags: Sequence[str]) -> bool:
    """Whether axes follow one another, in that order, so that they can be taken for one; only the first may be cut."""
    if len(tags) < 2:
        return False
    at = x.tags.index(tags[0])
    cut = any(isinstance(x.shape.partition(tag), str) for tag in tags[1:])
    return x.tags[at : at + len(tags)] == tuple(tags) and not cut


def outer(x: Tensor, y: Tensor, /) -> Tensor:
    """The product of each element of x with each of y. Tags that both have are batch axes."""
    x, y = _args.tensor("outer", x), _args.tensor("outer", y)
    _meet("outer", x, y, [tag for tag in x.tags if tag in y.tags])
    dims = dict(x.shape.items()) | dict(y.shape.items())
    return x.broadcast(dims) * y.broadcast(dims)


def _meet(op: str, x: Tensor, y: Tensor, batch: Sequence[str], summed: Sequence[str] = ()) -> None:
    """Refuses operands whose shared axes differ in size."""
    for tag in (*summed, *batch):
        if x.dim(tag) != y.dim(tag):
            mend = "equal tags must have equal dims"
            if tag in batch:
                mend += (
                    "; as it is not summed over it would be a batch axis: use rename() to keep both"
                )
            raise _args.error(
                op, f"the axis {tag!r} has {x.dim(tag)} and {y.dim(tag)} elements", x, y, mend=mend
            )


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
    _args.require(op, x, "int", "float", "complex")
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
        moved.reshape(math.prod(moved.shape[: len(batch)]), *moved.shape[len(batch) :]),
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


# JAX takes both of these from LAPACK through scipy on a CPU, and from cuSOLVER on a GPU, which are not shipped.
# A loop in plain XLA runs everywhere, and is meant for matrices of some hundred rows.


def cholesky(x: Tensor, row: str, column: str, /) -> Tensor:
    """The lower triangular L with L L^H = x, for symmetric positive definite x; NaN where it is not.

    The lower side of x is read. Other axes are batch axes.
    """
    _square("cholesky", x, row, column)
    order = _args.axes(
        "cholesky", x, [tag for tag in x.tags if tag not in (row, column)] + [row, column]
    )
    return x.derive(_put_back(_cholesky(lax.transpose(x.value, order)), order))


def _cholesky(a: jax.Array) -> jax.Array:
    if not a.size:
        return a
    rows = jnp.arange(a.shape[-1])

    def step(j: int, lower: jax.Array) -> jax.Array:
        row = lax.dynamic_index_in_dim(lower, j, -2, keepdims=False)
        done = jnp.einsum("...ik,...k->...i", lower, row.conj(), precision="highest")
        left = lax.dynamic_index_in_dim(a, j, -1, keepdims=False) - done
        pivot = jnp.sqrt(lax.dynamic_index_in_dim(left, j, -1).real)
        return lax.dynamic_update_index_in_dim(lower, jnp.where(rows >= j, left / pivot, 0), j, -1)

    return lax.fori_loop(0, a.shape[-1], step, jnp.zeros_like(a))


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
    if a.dtype != b.dtype:
        raise _args.error(op, "the element types differ", a, b, mend="use convert() on one")
    _meet(op, a, b, (*batch, row))
    order = _args.axes(op, b, [*batch, row, *(tag for tag in b.tags if tag not in (*batch, row))])
    moved = lax.transpose(b.value, order)
    columns = math.prod(moved.shape[len(batch) + 1 :])
    matrix = lax.transpose(a.value, _args.axes(op, a, (*batch, row, column)))
    value = _solve(matrix, moved.reshape(*matrix.shape[:-1], columns), lower)
    tags = [column if tag == row else tag for tag in b.tags]
    return b.derive(_put_back(value.reshape(moved.shape), order), tags, a)


def _solve(a: jax.Array, b: jax.Array, lower: bool) -> jax.Array:
    if not b.size:
        return b
    if not lower:
        return _solve(a[..., ::-1, ::-1], b[..., ::-1, :], True)[..., ::-1, :]
    a = jnp.tril(a)

    def step(i: int, x: jax.Array) -> jax.Array:
        row = lax.dynamic_index_in_dim(a, i, -2)
        left = lax.dynamic_index_in_dim(b, i, -2) - jnp.matmul(row, x, precision="highest")
        return lax.dynamic_update_index_in_dim(
            x, left / lax.dynamic_index_in_dim(row, i, -1), i, -2
        )

    return lax.fori_loop(0, a.shape[-1], step, jnp.zeros_like(b))


def _square(op: str, x: Tensor, row: str, column: str) -> None:
    _args.axes(op, x, (row, column))
    _args.require(op, x, "float", "complex")
    if x.dtype.bits < 32:
        raise _args.error(op, f"{x.dtype} is too narrow", x, mend="convert it to f32")
    if x.dim(row) != x.dim(column):
        raise _args.error(
            op, f"{row!r} and {column!r} differ in size", x, mend="the matrix must be square"
        )


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
