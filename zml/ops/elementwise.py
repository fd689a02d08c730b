"""Operations on each element of one tensor, and those that change the element type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from zml.ops import _args

if TYPE_CHECKING:
    from zml.dtypes import Kind
    from zml.ops._args import Operand
    from zml.tensor import Tensor


def _map(op: str, f: Callable[[jax.Array], jax.Array], x: Tensor, *kinds: Kind) -> Tensor:
    x = _args.tensor(op, x)
    _args.require(op, x, *kinds)
    return x.derive(f(x.value))


def neg(x: Tensor, /) -> Tensor:
    """-x."""
    return _map("neg", lax.neg, x, "int", "float", "complex")


def abs(x: Tensor, /) -> Tensor:
    """|x|, a float for complex numbers. The least signed integer stays as it is."""
    return _map("abs", jnp.abs, x, "int", "float", "complex")


def sign(x: Tensor, /) -> Tensor:
    """-1, 0 or 1; x / |x| for complex numbers; NaN for NaN."""
    return _map("sign", lax.sign, x, "int", "float", "complex")


def square(x: Tensor, /) -> Tensor:
    """x * x."""
    return _map("square", lax.square, x, "int", "float", "complex")


def reciprocal(x: Tensor, /) -> Tensor:
    """1 / x."""
    return _map("reciprocal", jnp.reciprocal, x, "float", "complex")


def sqrt(x: Tensor, /) -> Tensor:
    """The square root."""
    return _map("sqrt", lax.sqrt, x, "float", "complex")


def rsqrt(x: Tensor, /) -> Tensor:
    """1 / sqrt(x)."""
    return _map("rsqrt", lax.rsqrt, x, "float", "complex")


def cbrt(x: Tensor, /) -> Tensor:
    """The cube root."""
    return _map("cbrt", lax.cbrt, x, "float")


def exp(x: Tensor, /) -> Tensor:
    """e to the power of x."""
    return _map("exp", lax.exp, x, "float", "complex")


def expm1(x: Tensor, /) -> Tensor:
    """exp(x) - 1, exact near 0."""
    return _map("expm1", lax.expm1, x, "float", "complex")


def log(x: Tensor, /) -> Tensor:
    """The natural logarithm."""
    return _map("log", lax.log, x, "float", "complex")


def log1p(x: Tensor, /) -> Tensor:
    """log(1 + x), exact near 0."""
    return _map("log1p", lax.log1p, x, "float", "complex")


def sin(x: Tensor, /) -> Tensor:
    """The sine."""
    return _map("sin", lax.sin, x, "float", "complex")


def cos(x: Tensor, /) -> Tensor:
    """The cosine."""
    return _map("cos", lax.cos, x, "float", "complex")


def tan(x: Tensor, /) -> Tensor:
    """The tangent."""
    return _map("tan", lax.tan, x, "float", "complex")


def asin(x: Tensor, /) -> Tensor:
    """The inverse sine."""
    return _map("asin", lax.asin, x, "float", "complex")


def acos(x: Tensor, /) -> Tensor:
    """The inverse cosine."""
    return _map("acos", lax.acos, x, "float", "complex")


def atan(x: Tensor, /) -> Tensor:
    """The inverse tangent."""
    return _map("atan", lax.atan, x, "float", "complex")


def sinh(x: Tensor, /) -> Tensor:
    """The hyperbolic sine."""
    return _map("sinh", lax.sinh, x, "float", "complex")


def cosh(x: Tensor, /) -> Tensor:
    """The hyperbolic cosine."""
    return _map("cosh", lax.cosh, x, "float", "complex")


def tanh(x: Tensor, /) -> Tensor:
    """The hyperbolic tangent."""
    return _map("tanh", lax.tanh, x, "float", "complex")


def erf(x: Tensor, /) -> Tensor:
    """The error function."""
    return _map("erf", lax.erf, x, "float")


def erf_inv(x: Tensor, /) -> Tensor:
    """The inverse of the error function."""
    return _map("erf_inv", lax.erf_inv, x, "float")


def sigmoid(x: Tensor, /) -> Tensor:
    """1 / (1 + exp(-x)), the logistic function."""
    return _map("sigmoid", lax.logistic, x, "float", "complex")


def relu(x: Tensor, /) -> Tensor:
    """max(x, 0), with gradient 0 at 0."""
    return _map("relu", jax.nn.relu, x, "int", "float")


def silu(x: Tensor, /) -> Tensor:
    """x * sigmoid(x), also called swish (Elfwing et al., arXiv:1702.03118)."""
    return _map("silu", jax.nn.silu, x, "float")


def gelu(x: Tensor, /, approximate: bool = False) -> Tensor:
    """x * P(X <= x) for a normal X (Hendrycks & Gimpel, arXiv:1606.08415), or its tanh approximation."""
    return _map("gelu", lambda value: jax.nn.gelu(value, approximate), x, "float")


def softplus(x: Tensor, /) -> Tensor:
    """log(1 + exp(x))."""
    return _map("softplus", jax.nn.softplus, x, "float")


def floor(x: Tensor, /) -> Tensor:
    """The greatest integer that is not above x."""
    return _map("floor", lax.floor, x, "float")


def ceil(x: Tensor, /) -> Tensor:
    """The least integer that is not below x."""
    return _map("ceil", lax.ceil, x, "float")


def trunc(x: Tensor, /) -> Tensor:
    """The integer part."""
    return _map("trunc", jnp.trunc, x, "float")


def round(x: Tensor, /) -> Tensor:
    """The nearest integer, the even one of two."""
    return _map("round", lambda v: lax.round(v, lax.RoundingMethod.TO_NEAREST_EVEN), x, "float")


def is_finite(x: Tensor, /) -> Tensor:
    """Whether x is neither infinite nor NaN."""
    return _map("is_finite", jnp.isfinite, x, "float", "complex")


def is_nan(x: Tensor, /) -> Tensor:
    """Whether x is NaN."""
    return _map("is_nan", jnp.isnan, x, "float", "complex")


def real(x: Tensor, /) -> Tensor:
    """The real part."""
    return _map("real", lax.real, x, "complex")


def imag(x: Tensor, /) -> Tensor:
    """The imaginary part."""
    return _map("imag", lax.imag, x, "complex")


def conj(x: Tensor, /) -> Tensor:
    """The complex conjugate."""
    return _map("conj", lax.conj, x, "complex")


def not_(x: Tensor, /) -> Tensor:
    """The opposite of a bool, the complement of an integer's bits. Also `~x`."""
    return _map("not_", lax.bitwise_not, x, "bool", "int")


def population_count(x: Tensor, /) -> Tensor:
    """How many bits are 1."""
    return _map("population_count", lax.population_count, x, "int")


def count_leading_zeros(x: Tensor, /) -> Tensor:
    """How many bits are 0 above the highest 1."""
    return _map("count_leading_zeros", lax.clz, x, "int")


def convert(x: Tensor, dtype: Any, /) -> Tensor:
    """Each element as another type: floats are rounded to the nearest even; to integers they are cut towards 0.

    A float that an integer type cannot hold gives a value that depends on the platform: clamp first.
    """
    x, target = _args.tensor("convert", x), _args.element_type("convert", dtype)
    if x.dtype.kind == "complex" and target.kind != "complex":
        raise _args.error(
            "convert", f"{target} has no imaginary part", x, mend="take real() or abs() first"
        )
    return x if target == x.dtype else x.derive(x.value.astype(target.numpy))


def bitcast(x: Tensor, dtype: Any, /, tag: str | None = None) -> Tensor:
    """The same bits read as another type.

    To a narrower type, each element becomes an axis `tag`, the last one, least significant part first; to a wider one,
    the axis `tag` holds the parts of an element and goes.
    """
    x, target = _args.tensor("bitcast", x), _args.element_type("bitcast", dtype)
    ratio = x.dtype.bits / target.bits
    if "bool" in (x.dtype.kind, target.kind) and x.dtype != target:
        raise _args.error(
            "bitcast", "a bool has no bits to read", x, mend=f"use convert({str(target)!r})"
        )
    if ratio == 1:
        return x.derive(lax.bitcast_convert_type(x.value, target.numpy))
    whole = ratio if ratio > 1 else 1 / ratio
    if tag is None or not whole.is_integer():
        problem = f"{x.dtype} has {x.dtype.bits} bits and {target} has {target.bits}"
        raise _args.error(
            "bitcast",
            problem,
            x,
            mend="one must be a multiple of the other; give tag= for the parts",
        )
    parts = int(whole)
    if ratio > 1:
        _args.fresh("bitcast", x, (tag,))
        return x.derive(lax.bitcast_convert_type(x.value, target.numpy), (*x.tags, tag))
    position = _args.axis("bitcast", x, tag)
    if x.dim(tag) != parts:
        problem = f"an element of {target} has {parts} parts of {x.dtype}, the axis {tag!r} has {x.dim(tag)}"
        raise _args.error("bitcast", problem, x, mend=f"split the axis so that {tag!r} has {parts}")
    last = jnp.moveaxis(x.value, position, -1)
    rest = [other for other in x.tags if other != tag]
    return x.derive(lax.bitcast_convert_type(last, target.numpy), rest)


def clamp(x: Tensor, low: Operand, high: Operand, /) -> Tensor:
    """min(max(x, low), high); NaN stays NaN."""
    (value, least, most), like = _args.operands("clamp", x, low, high)
    _args.require("clamp", like[0], "int", "float")
    return like[0].derive(lax.clamp(least, value, most), None, *like[1:])
