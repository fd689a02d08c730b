"""What every operation does with its arguments: look tags up, compare shapes, turn numbers into arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zml.dtypes import DType, Kind
from zml.errors import ShapeError, UnsupportedError
from zml.shape import Shape, check_tags

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from zml.tensor import Tensor

type Number = bool | int | float | complex
type Operand = Tensor | Number
"""What a binary operation takes. A Python number has the element type of the tensor it meets."""


def error(op: str, problem: str, *given: Tensor | Shape, mend: str) -> ShapeError:
    """A ShapeError: `op: problem; given SHAPES; mend`."""
    shapes = " and ".join(str(x if isinstance(x, Shape) else x.shape) for x in given)
    return ShapeError(f"{op}: {problem}{'; given ' if given else ''}{shapes}; {mend}")


def axes(op: str, x: Tensor, tags: Iterable[str]) -> tuple[int, ...]:
    """The positions of axes that must exist, each named once."""
    tags = tuple(tags)
    for tag in tags:
        if tag not in x.tags:
            raise error(op, f"there is no axis {tag!r}", x, mend=f"its tags are {list(x.tags)}")
        if tags.count(tag) > 1:
            raise error(op, f"the axis {tag!r} is named twice", x, mend="name each axis once")
    return tuple(x.tags.index(tag) for tag in tags)


def axis(op: str, x: Tensor, tag: str) -> int:
    """The position of one axis."""
    return axes(op, x, (tag,))[0]


def fresh(op: str, x: Tensor, tags: Iterable[str], leaving: Iterable[str] = ()) -> None:
    """Refuses tags for new axes of `x` that are no tags, or are those of an axis that stays."""
    stays = set(x.tags) - set(leaving)
    for tag in check_tags(tags):
        if tag in stays:
            raise error(
                op,
                f"there is already an axis {tag!r}",
                x,
                mend="choose another tag for the new axis",
            )


def require(op: str, x: Tensor, *kinds: Kind) -> None:
    """Refuses an element type that the operation is not defined for."""
    if x.dtype.kind not in kinds:
        expected = " or ".join(kinds)
        raise error(
            op, f"it is defined for {expected} elements, not {x.dtype}", x, mend="convert it first"
        )


def literal(op: str, number: Any, dtype: DType) -> jax.Array:
    """A Python number as an array of rank 0, if the element type can hold a number of that kind."""
    holds: dict[Kind, tuple[type, ...]] = {
        "bool": (bool, np.bool_),
        "int": (int, np.integer),
        "float": (int, np.integer, float),
        "complex": (int, np.integer, float, complex),
    }
    plain_bool = isinstance(number, bool | np.bool_)
    if plain_bool != (dtype.kind == "bool") or not isinstance(number, holds[dtype.kind]):
        raise ShapeError(
            f"{op}: {number!r} ({type(number).__name__}) does not become an element of type {dtype} without a loss; "
            "convert the tensor, or give a number of its kind"
        )
    if dtype.kind == "int" and not dtype.limits[0] <= number <= dtype.limits[1]:
        low, high = dtype.limits
        raise ShapeError(f"{op}: {number} is out of the range of {dtype}, which is {low} to {high}")
    if dtype.bits == 6:
        # XLA has no literals of these types, and its CPU compiler ends the process when it meets one.
        raise UnsupportedError(
            f"{op}: XLA has no constants of type {dtype}; take them as an argument"
        )
    kinds: dict[Kind, Any] = {"bool": bool, "int": int, "float": float, "complex": complex}
    try:
        wide = kinds[dtype.kind](number)
        with np.errstate(all="ignore"):
            value = np.asarray(wide).astype(dtype.numpy)
        held = np.isnan(value) == np.isnan(wide) and np.isinf(value) == np.isinf(wide)
    except OverflowError:
        held = False
    if not held:
        raise ShapeError(
            f"{op}: {dtype} cannot hold {number}; give a number in its range, or take a wider type"
        )
    return checked(op, jnp.asarray(value), dtype)


def checked(op: str, array: jax.Array, dtype: DType) -> jax.Array:
    """The array, unless JAX has cut its 64-bit elements to 32 bits."""
    if array.dtype != dtype.numpy:
        raise available(op, dtype)
    return array


def available(op: str, dtype: DType) -> ShapeError:
    """The error for a 64-bit type while JAX has them switched off."""
    return ShapeError(
        f"{op}: JAX has 64-bit types switched off, and {dtype} would become a 32-bit one; "
        "switch them on with jax.config.update('jax_enable_x64', True) or ask for a smaller type"
    )


def element_type(op: str, dtype: Any) -> DType:
    """The DType of a result, if JAX would really make it."""
    result = DType.of(dtype)
    if jax.dtypes.canonicalize_dtype(result.numpy) != result.numpy:
        raise available(op, result)
    return result


def widened(x: Tensor) -> jax.Array:
    """The elements in a type that holds all of theirs and that compilers know well: for types of less than 16 bits.

    XLA's CPU backend sorts 2-bit integers wrongly, has no top-k of packed elements, and starts a maximum of floats that
    have no infinities from NaN.
    """
    if x.dtype.kind == "int" and x.dtype.bits < 8:
        return x.value.astype("int32")
    if x.dtype.kind == "float" and x.dtype.bits < 16:
        return x.value.astype("float32")
    return x.value


# Tensor lists the operations as its methods, so its class is not there yet when they are loaded: they know it through
# these two.


def is_tensor(value: object) -> TypeIs[Tensor]:
    """Whether it is a Tensor."""
    from zml.tensor import Tensor

    return isinstance(value, Tensor)


def make(value: jax.Array | np.ndarray[Any, Any], shape: Shape | Iterable[str]) -> Tensor:
    """A Tensor with those tags, and the partitioning of a Shape."""
    from zml.tensor import Tensor

    if isinstance(shape, Shape):
        return Tensor(value, shape.tags, dict(zip(shape.tags, shape.partitions, strict=True)))
    return Tensor(value, shape)


def tensor(op: str, value: object) -> Tensor:
    """The argument, if it is a Tensor."""
    if is_tensor(value):
        return value
    raise ShapeError(
        f"{op}: an operand is a {type(value).__name__}, expected a Tensor; name its axes: zml.Tensor(array, tags)"
    )


def same(op: str, *xs: Tensor) -> None:
    """Refuses tensors whose tags, dims or element types differ."""
    first = xs[0]
    for x in xs[1:]:
        if x.dtype != first.dtype:
            raise error(
                op,
                "the element types differ",
                first,
                x,
                mend="nothing is converted unasked: use convert()",
            )
        if x.shape.matches(first.shape):
            continue
        if set(x.tags) == set(first.tags):
            order = ", ".join(repr(tag) for tag in first.tags)
            mend = (
                f"use transpose({order}) on the second"
                if x.tags != first.tags
                else "the dims must be equal"
            )
        else:
            mend = "nothing is broadcast unasked: use broadcast() on the smaller one"
        raise error(op, "the shapes differ", first, x, mend=mend)


def operands(op: str, *values: Operand) -> tuple[tuple[jax.Array, ...], tuple[Tensor, ...]]:
    """Arrays of one shape for an elementwise operation, and the tensors that give the result its tags.

    Tensors of rank 0 and Python numbers take the shape of the others; a number takes their element type as well.
    """
    tensors = tuple(
        tensor(op, value) for value in values if not isinstance(value, Number.__value__ | np.number)
    )
    if not tensors:
        raise ShapeError(f"{op}: no operand is a Tensor; at least one must be")
    full = tuple(x for x in tensors if x.rank) or tensors[:1]
    same(op, *full)
    for x in tensors:
        if x.dtype != full[0].dtype:
            same(op, full[0], x)
    shape, dtype = full[0].value.shape, full[0].dtype
    by_id = {id(x): x.value for x in tensors}
    arrays = (
        by_id[id(value)] if id(value) in by_id else literal(op, value, dtype) for value in values
    )
    return tuple(
        array if array.shape == shape else lax.broadcast(array, shape) for array in arrays
    ), full
