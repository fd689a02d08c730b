"""Operations on the elements of two tensors of one shape, or of a tensor and a number: arithmetic, comparison, bits.

Shapes must be equal: same tags, in the same order, same dims and same element type. Broadcasting is asked for
(`x.broadcast(y)`); only a Python number or a tensor of rank 0 meets every shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from zml.ops import _args

if TYPE_CHECKING:
    from zml.dtypes import Kind
    from zml.ops._args import Operand
    from zml.tensor import Tensor


def _zip(
    op: str,
    f: Callable[[jax.Array, jax.Array], jax.Array],
    x: Operand,
    y: Operand,
    *kinds: Kind,
) -> Tensor:
    (left, right), like = _args.operands(op, x, y)
    _args.require(op, like[0], *kinds)
    return like[0].derive(f(left, right), None, *like[1:])


def add(x: Operand, y: Operand, /) -> Tensor:
    """x + y."""
    return _zip("add", lax.add, x, y, "int", "float", "complex")


def sub(x: Operand, y: Operand, /) -> Tensor:
    """x - y."""
    return _zip("sub", lax.sub, x, y, "int", "float", "complex")


def mul(x: Operand, y: Operand, /) -> Tensor:
    """x * y."""
    return _zip("mul", lax.mul, x, y, "int", "float", "complex")


def div(x: Operand, y: Operand, /) -> Tensor:
    """x / y of floats. Integers are divided with floor_div, or converted first."""
    return _zip("div", lax.div, x, y, "float", "complex")


def floor_div(x: Operand, y: Operand, /) -> Tensor:
    """x // y, rounded down as in Python. Dividing an integer by 0 has no defined result."""
    return _zip("floor_div", jnp.floor_divide, x, y, "int", "float")


def remainder(x: Operand, y: Operand, /) -> Tensor:
    """x % y, with the sign of y as in Python."""
    return _zip("remainder", jnp.remainder, x, y, "int", "float")


def pow(x: Operand, y: Operand, /) -> Tensor:
    """x ** y. An integer number as y multiplies exactly; a tensor of integers has no negative powers."""
    if isinstance(y, int) and not isinstance(y, bool):
        base = _args.tensor("pow", x)
        _args.require("pow", base, "int", "float", "complex")
        if base.dtype.kind != "int" or y >= 0:
            return base.derive(lax.integer_pow(base.value, y))
        raise _args.error(
            "pow", f"integers have no power {y}", base, mend="convert to floats first"
        )
    return _zip("pow", jnp.power, x, y, "int", "float", "complex")


def maximum(x: Operand, y: Operand, /) -> Tensor:
    """The greater of x and y; NaN if either is."""
    return _zip("maximum", lax.max, x, y, "int", "float")


def minimum(x: Operand, y: Operand, /) -> Tensor:
    """The lesser of x and y; NaN if either is."""
    return _zip("minimum", lax.min, x, y, "int", "float")


def atan2(y: Operand, x: Operand, /) -> Tensor:
    """The angle of the point (x, y)."""
    return _zip("atan2", lax.atan2, y, x, "float")


def complex_(real: Operand, imag: Operand, /) -> Tensor:
    """The complex number of two f32 or f64 parts."""
    (left, right), like = _args.operands("complex_", real, imag)
    if like[0].dtype not in ("f32", "f64"):
        raise _args.error("complex_", "the parts must be f32 or f64", like[0], mend="convert them")
    return like[0].derive(lax.complex(left, right), None, *like[1:])


def eq(x: Operand, y: Operand, /) -> Tensor:
    """x == y."""
    return _zip("eq", lax.eq, x, y, "bool", "int", "float", "complex")


def ne(x: Operand, y: Operand, /) -> Tensor:
    """x != y."""
    return _zip("ne", lax.ne, x, y, "bool", "int", "float", "complex")


def lt(x: Operand, y: Operand, /) -> Tensor:
    """x < y."""
    return _zip("lt", lax.lt, x, y, "int", "float")


def le(x: Operand, y: Operand, /) -> Tensor:
    """x <= y."""
    return _zip("le", lax.le, x, y, "int", "float")


def gt(x: Operand, y: Operand, /) -> Tensor:
    """x > y."""
    return _zip("gt", lax.gt, x, y, "int", "float")


def ge(x: Operand, y: Operand, /) -> Tensor:
    """x >= y."""
    return _zip("ge", lax.ge, x, y, "int", "float")


def and_(x: Operand, y: Operand, /) -> Tensor:
    """x & y, bit by bit for integers."""
    return _zip("and_", lax.bitwise_and, x, y, "bool", "int")


def or_(x: Operand, y: Operand, /) -> Tensor:
    """x | y, bit by bit for integers."""
    return _zip("or_", lax.bitwise_or, x, y, "bool", "int")


def xor(x: Operand, y: Operand, /) -> Tensor:
    """x ^ y, bit by bit for integers."""
    return _zip("xor", lax.bitwise_xor, x, y, "bool", "int")


def shift_left(x: Operand, y: Operand, /) -> Tensor:
    """x << y; 0 if y is the number of bits or more."""
    return _zip("shift_left", lax.shift_left, x, y, "int")


def shift_right(x: Operand, y: Operand, /) -> Tensor:
    """x >> y, which keeps the sign of signed integers as in Python."""

    def shift(left: jax.Array, right: jax.Array) -> jax.Array:
        unsigned = jnp.issubdtype(left.dtype, jnp.unsignedinteger)
        return (lax.shift_right_logical if unsigned else lax.shift_right_arithmetic)(left, right)

    return _zip("shift_right", shift, x, y, "int")


def select(condition: Tensor, x: Operand, y: Operand, /) -> Tensor:
    """x where the condition is true, y elsewhere. The condition has the shape of the others, or rank 0."""
    condition = _args.tensor("select", condition)
    _args.require("select", condition, "bool")
    (left, right), like = _args.operands("select", x, y)
    choice, result = condition.value, like[0]
    if not condition.rank:
        choice = jnp.broadcast_to(choice, left.shape)
    elif not condition.shape.matches(result.shape):
        if result.rank:
            mend = "the condition needs the shape of what it chooses from: use broadcast() or transpose()"
            raise _args.error("select", "the shapes differ", condition, result, mend=mend)
        left, right = (jnp.broadcast_to(side, choice.shape) for side in (left, right))
        return condition.derive(lax.select(choice, left, right))
    return result.derive(lax.select(choice, left, right), None, *like[1:])
