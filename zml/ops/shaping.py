"""Operations that move, join, cut and name axes and leave the elements as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from zml.ops import _args
from zml.shape import Shape, complete_order

if TYPE_CHECKING:
    from zml.ops._args import Number
    from zml.tensor import Tensor


def _infer(op: str, x: Tensor, count: int, dims: Mapping[str, int]) -> dict[str, int]:
    """The dims with -1, at most once, replaced by what makes `count` elements."""
    unknown = [tag for tag, dim in dims.items() if dim == -1]
    known = math.prod(dim for dim in dims.values() if dim != -1)
    fits = known == count if not unknown else known > 0 and count % known == 0
    if len(unknown) > 1 or any(dim < -1 for dim in dims.values()) or not fits:
        raise _args.error(
            op, f"the dims {dict(dims)} do not make {count} elements", x,
            mend="give dims whose product is that count, with -1 at most once for the one to be worked out",
        )  # fmt: skip
    return {tag: count // known if dim == -1 else dim for tag, dim in dims.items()}


def reshape(x: Tensor, /, **dims: int) -> Tensor:
    """All dims anew, over the elements in row-major order: `x.reshape(a=4, b=-1)`."""
    new = _infer("reshape", x, x.count, dims)
    return x.derive(x.value.reshape(tuple(new.values())), new)


def transpose(x: Tensor, /, *tags: str | EllipsisType) -> Tensor:
    """The axes in that order; `...` stands for those that are not named: `x.transpose("h", ...)`."""
    order = complete_order(x.shape, tags)
    return x.derive(lax.transpose(x.value, _args.axes("transpose", x, order)), order)


def rename(x: Tensor, /, **tags: str) -> Tensor:
    """Other names for axes: `x.rename(old="new")`. Names may be exchanged."""
    shape = x.shape.rename(**tags)
    cuts = dict(zip(shape.tags, shape.partitions, strict=True))
    return type(x)(x.value, shape.tags, cuts)


def split(x: Tensor, tag: str, /, **dims: int) -> Tensor:
    """One axis as several, major to minor: `x.split("d", h=32, hd=-1)`."""
    position = _args.axis("split", x, tag)
    _args.fresh("split", x, dims, leaving=(tag,))
    new = _infer("split", x, x.dim(tag), dims)
    items = x.shape.items()
    result = dict([*items[:position], *new.items(), *items[position + 1 :]])
    return x.derive(x.value.reshape(tuple(result.values())), result)


def merge(x: Tensor, /, **tags: Sequence[str]) -> Tensor:
    """Adjacent axes as one, the reverse of split: `x.merge(d=("h", "hd"))`."""
    for into, parts in tags.items():
        if isinstance(parts, str) or not parts:
            raise _args.error(
                "merge", f"{into}={parts!r} is no list of tags", x, mend='write d=("h", "hd")'
            )
        first = _args.axes("merge", x, parts)[0]
        _args.fresh("merge", x, (into,), leaving=parts)
        if x.tags[first : first + len(parts)] != tuple(parts):
            raise _args.error(
                "merge",
                f"the axes {list(parts)} do not follow one another in that order",
                x,
                mend="transpose first",
            )
        dims = dict(x.shape.items())
        size = math.prod(dims[part] for part in parts)
        items = list(dims.items())
        result = dict([*items[:first], (into, size), *items[first + len(parts) :]])
        x = x.derive(x.value.reshape(tuple(result.values())), result)
    return x


def flatten(x: Tensor, tag: str, /) -> Tensor:
    """All axes as one."""
    return x.derive(x.value.reshape(-1), (tag,))


def squeeze(x: Tensor, /, *tags: str) -> Tensor:
    """Without axes of one element."""
    positions = _args.axes("squeeze", x, tags)
    for tag in tags:
        if x.dim(tag) != 1:
            raise _args.error(
                "squeeze",
                f"the axis {tag!r} has {x.dim(tag)} elements",
                x,
                mend="only axes of 1 can go: use choose()",
            )
    return x.derive(lax.squeeze(x.value, positions), [tag for tag in x.tags if tag not in tags])


def insert(x: Tensor, /, *tags: str, at: int = 0) -> Tensor:
    """With new axes of one element before position `at`."""
    shape = x.shape.insert(at, **dict.fromkeys(tags, 1))
    return x.derive(x.value.reshape(shape.dims), shape.tags)


def broadcast(x: Tensor, like: Tensor | Shape | Mapping[str, int], /) -> Tensor:
    """Repeated along the axes of `like` that x does not have, or of which it has one element. Axes match by tag."""
    target = dict((like if isinstance(like, Mapping) else _shape(like)).items())
    for tag in x.tags:
        if target.get(tag) != x.dim(tag) and (tag not in target or x.dim(tag) != 1):
            wanted = like if isinstance(like, Mapping) else _shape(like)
            raise _args.error(
                "broadcast", f"the axis {tag!r} does not fit {wanted}", x,
                mend="each axis must be in the target, with the same dim or with 1",
            )  # fmt: skip
    order = [tag for tag in target if tag in x.tags]
    ordered = lax.transpose(x.value, [x.tags.index(tag) for tag in order])
    positions = [index for index, tag in enumerate(target) if tag in x.tags]
    return x.derive(lax.broadcast_in_dim(ordered, tuple(target.values()), positions), target)


def _shape(like: Tensor | Shape) -> Shape:
    return like if isinstance(like, Shape) else like.shape


def concatenate(xs: Sequence[Tensor], tag: str, /) -> Tensor:
    """Tensors one after another along an axis that all have; their other dims are equal."""
    first = _first("concatenate", xs)
    position = _args.axis("concatenate", first, tag)
    for x in xs[1:]:
        wanted = first.shape.set(**{tag: x.dim(tag)}) if tag in x.tags else first.shape
        if x.dtype != first.dtype or not x.shape.matches(wanted):
            raise _args.error(
                "concatenate",
                f"the tensors differ in more than {tag!r}",
                first,
                x,
                mend="make the rest equal",
            )
    return first.derive(lax.concatenate([x.value for x in xs], position), None, *xs[1:])


def stack(xs: Sequence[Tensor], tag: str, /, at: int = 0) -> Tensor:
    """Tensors of one shape along a new axis, at position `at`."""
    first = _first("stack", xs)
    _args.same("stack", *xs)
    shape = first.shape.insert(at, **{tag: len(xs)})
    return first.derive(jnp.stack([x.value for x in xs], at), shape.tags, *xs[1:])


def _first(op: str, xs: Sequence[Tensor]) -> Tensor:
    if not xs:
        raise _args.error(op, "the list of tensors is empty", mend="give at least one")
    for x in xs:
        _args.tensor(op, x)
    return xs[0]


def repeat(x: Tensor, /, **times: int) -> Tensor:
    """Whole axes several times over, `[a, b]` twice is `[a, b, a, b]`: `x.repeat(s=2)`."""
    _args.axes("repeat", x, times)
    _not_negative("repeat", x, times)
    return x.derive(jnp.tile(x.value, [times.get(tag, 1) for tag in x.tags]))


def repeat_interleave(x: Tensor, /, **times: int) -> Tensor:
    """Each element several times over, `[a, b]` twice is `[a, a, b, b]`: `x.repeat_interleave(h=4)`."""
    value = x.value
    _not_negative("repeat_interleave", x, times)
    for position, count in zip(
        _args.axes("repeat_interleave", x, times), times.values(), strict=True
    ):
        value = jnp.repeat(
            value, count, position, total_repeat_length=value.shape[position] * count
        )
    return x.derive(value)


def _not_negative(op: str, x: Tensor, amounts: Mapping[str, int]) -> None:
    for tag, amount in amounts.items():
        if amount < 0:
            raise _args.error(op, f"{tag}={amount} is negative", x, mend="give 0 or more")


def chunk(x: Tensor, tag: str, count: int, /) -> list[Tensor]:
    """The axis cut into `count` equal parts."""
    position = _args.axis("chunk", x, tag)
    if count < 1 or x.dim(tag) % count:
        raise _args.error(
            "chunk",
            f"{x.dim(tag)} elements of {tag!r} do not make {count} equal parts",
            x,
            mend="cut with slice()",
        )
    return [x.derive(part) for part in jnp.split(x.value, count, position)]


def reverse(x: Tensor, /, *tags: str) -> Tensor:
    """The named axes from back to front."""
    return x.derive(lax.rev(x.value, _args.axes("reverse", x, tags)))


def pad(x: Tensor, value: Number = 0, /, **amounts: tuple[int, int]) -> Tensor:
    """Elements of that value before and after: `x.pad(0, s=(1, 2))`. Negative amounts cut."""
    _args.axes("pad", x, amounts)
    if x.dtype.kind == "bool" and value == 0:
        value = False
    config = [(*amounts.get(tag, (0, 0)), 0) for tag in x.tags]
    for (low, high, _), (tag, dim) in zip(config, x.shape.items(), strict=True):
        if dim + low + high < 0 or min(low, high) < -dim:
            raise _args.error(
                "pad", f"{tag}={(low, high)} cuts more than there is", x, mend="cut less"
            )
    return x.derive(lax.pad(x.value, _args.literal("pad", value, x.dtype), config))


def roll(x: Tensor, /, **shifts: int) -> Tensor:
    """Elements moved towards the end, those that leave come back at the start: `x.roll(s=1)`."""
    positions = _args.axes("roll", x, shifts)
    return x.derive(jnp.roll(x.value, tuple(shifts.values()), positions))


def diagonal(x: Tensor, row: str, column: str, /, into: str, offset: int = 0) -> Tensor:
    """The elements with column index = row index + offset, as a last axis `into` in place of the two."""
    first, second = _args.axes("diagonal", x, (row, column))
    _args.fresh("diagonal", x, (into,), leaving=(row, column))
    rest = [tag for tag in x.tags if tag not in (row, column)]
    return x.derive(jnp.diagonal(x.value, offset, first, second), [*rest, into])


def triangular(x: Tensor, row: str, column: str, /, lower: bool = True, offset: int = 0) -> Tensor:
    """The elements on one side of a diagonal, with it, and 0 elsewhere.

    Lower keeps column <= row + offset, upper keeps column >= row + offset.
    """
    first, second = _args.axes("triangular", x, (row, column))
    rows = lax.broadcasted_iota("int32", x.value.shape, first) + offset
    columns = lax.broadcasted_iota("int32", x.value.shape, second)
    keep = columns <= rows if lower else columns >= rows
    return x.derive(jnp.where(keep, x.value, jnp.zeros((), x.value.dtype)))
