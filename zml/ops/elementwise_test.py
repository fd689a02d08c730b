import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zml import ops
from zml.dtypes import DType
from zml.errors import ShapeError, UnsupportedError
from zml.ops._testing import check, draw
from zml.tensor import Tensor

_erf = np.vectorize(math.erf)

UNARY: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    "neg": (np.negative, -2, 2),
    "abs": (np.abs, -2, 2),
    "sign": (np.sign, -2, 2),
    "square": (np.square, -2, 2),
    "reciprocal": (np.reciprocal, 0.5, 2),
    "sqrt": (np.sqrt, 0.1, 2),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 0.5, 2),
    "cbrt": (np.cbrt, -2, 2),
    "exp": (np.exp, -2, 2),
    "expm1": (np.expm1, -2, 2),
    "log": (np.log, 0.1, 2),
    "log1p": (np.log1p, -0.5, 2),
    "sin": (np.sin, -2, 2),
    "cos": (np.cos, -2, 2),
    "tan": (np.tan, -1, 1),
    "asin": (np.arcsin, -0.9, 0.9),
    "acos": (np.arccos, -0.9, 0.9),
    "atan": (np.arctan, -2, 2),
    "sinh": (np.sinh, -2, 2),
    "cosh": (np.cosh, -2, 2),
    "tanh": (np.tanh, -2, 2),
    "erf": (_erf, -2, 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -2, 2),
    "relu": (lambda x: np.maximum(x, 0), -2, 2),
    "silu": (lambda x: x / (1 + np.exp(-x)), -2, 2),
    "gelu": (lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2, -2, 2),
    "softplus": (lambda x: np.log1p(np.exp(x)), -2, 2),
    "floor": (np.floor, -2, 2),
    "ceil": (np.ceil, -2, 2),
    "trunc": (np.trunc, -2, 2),
    "round": (np.round, -2, 2),
}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_unary(name: str, dtype: str) -> None:
    expected, low, high = UNARY[name]
    x, a = draw(1, dtype, low, high, s=3, d=5)
    check(getattr(x, name)(), expected(a), "s d", dtype)
    assert getattr(ops, name)(x).shape == x.shape


def test_unary_of_special_values_and_empty_shapes() -> None:
    x = Tensor(np.array([-np.inf, -1.5, -0.5, 0.5, 1.5, 2.5, np.inf, np.nan], np.float32), ("s",))
    np.testing.assert_array_equal(x.round().value[1:6], [-2, -0.0, 0, 2, 2])
    check(x.is_nan(), [False] * 7 + [True], "s", "bool")
    check(x.is_finite(), [False] + [True] * 5 + [False] * 2, "s", "bool")
    check(x.clamp(-1, 1).slice(s=(0, 7)), [-1, -1, -0.5, 0.5, 1, 1, 1], "s", "f32")
    assert bool(x.clamp(-1.0, 1.0).choose(s=-1).is_nan())
    check(draw(0, s=0, d=3)[0].exp(), np.zeros((0, 3)), "s d", "f32")
    check(draw(0)[0].tanh(), np.tanh(draw(0)[1]), "", "f32")


def test_erf_inv_and_gelu_approximation() -> None:
    x, a = draw(2, low=-0.9, high=0.9, s=7)
    check(x.erf_inv().erf(), a, "s", "f32")
    tanh = a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))) / 2
    check(x.gelu(approximate=True), tanh, "s", "f32")


def test_complex_numbers() -> None:
    x, a = draw(3, "c64", s=4)
    check(x.real(), a.real, "s", "f32")
    check(x.imag(), a.imag, "s", "f32")
    check(x.conj(), a.conj(), "s", "c64")
    check(x.abs(), abs(a), "s", "f32")
    check(ops.complex_(x.real(), x.imag()), a, "s", "c64")
    check(x * (1 + 2j), a * (1 + 2j), "s", "c64")


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floor_div": operator.floordiv,
    "remainder": operator.mod,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32", "i8"])
def test_binary(name: str, dtype: str) -> None:
    x, a = draw(1, dtype, -5, 5, s=3, d=5)
    y, b = draw(2, dtype, 1, 4, s=3, d=5)
    b = np.where(np.arange(5) % 2, b, -b)
    y = y.derive(y.value * jnp.asarray(np.where(np.arange(5) % 2, 1, -1), y.value.dtype))
    result = BINARY[name](a, b)
    kind = "bool" if result.dtype == bool else dtype
    check(getattr(x, name)(y), result, "s d", kind)
    check(getattr(ops, name)(x, 2), BINARY[name](a, 2), "s d", kind)
    check(getattr(ops, name)(2, y), BINARY[name](2, b), "s d", kind)


@pytest.mark.parametrize(
    "op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
)
def test_operators_with_numbers_on_both_sides(op: Callable[[Any, Any], Any]) -> None:
    x, a = draw(1, low=0.5, high=2, s=3)
    check(op(x, 1.5), op(a, 1.5), "s", "f32")
    check(op(1.5, x), op(1.5, a), "s", "f32")
    check(op(x, 2), op(a, 2), "s", "f32")
    check(op(2, x), op(2, a), "s", "f32")


@pytest.mark.parametrize(
    "op",
    [
        operator.and_,
        operator.or_,
        operator.xor,
        operator.lshift,
        operator.rshift,
        operator.floordiv,
        operator.mod,
    ],
)
@pytest.mark.parametrize("dtype", ["i32", "u8", "i16"])
def test_integer_operators(op: Callable[[Any, Any], Any], dtype: str) -> None:
    x, a = draw(1, dtype, 0 if dtype == "u8" else -9, 9, s=6)
    y, b = draw(2, dtype, 1, 3, s=6)
    check(op(x, y), op(a, b), "s", dtype)
    check(op(x, 3), op(a, 3), "s", dtype)
    check(op(3, y), op(3, b), "s", dtype)


def test_powers_and_bits() -> None:
    x, a = draw(1, "i32", -4, 4, s=5)
    check(x**3, a**3, "s", "i32")
    check(-x, -a, "s", "i32")
    check(~x, ~a, "s", "i32")
    check(abs(x), abs(a), "s", "i32")
    check(draw(1, low=1, high=2, s=5)[0] ** -2, draw(1, low=1, high=2, s=5)[1] ** -2, "s", "f32")
    check(x.abs().population_count(), [int(v).bit_count() for v in abs(a)], "s", "i32")
    check(x.abs().count_leading_zeros(), [32 - int(v).bit_length() for v in abs(a)], "s", "i32")
    with pytest.raises(ShapeError, match="pow: integers have no power -1"):
        x**-1
    flag, f = draw(4, "bool", s=5)
    check(~flag | flag & True, np.ones(5), "s", "bool")
    check(flag ^ flag, np.zeros(5), "s", "bool")
    check(flag == True, f, "s", "bool")  # noqa: E712


def test_select() -> None:
    (x, a), (y, b), (c, p) = draw(1, s=3, d=2), draw(2, s=3, d=2), draw(3, "bool", s=3, d=2)
    check(c.select(x, y), np.where(p, a, b), "s d", "f32")
    check(c.select(x, 0), np.where(p, a, 0), "s d", "f32")
    check(c.select(-1.0, x.choose(s=0, d=0)), np.where(p, -1, a[0, 0]), "s d", "f32")
    check(c.all().select(x, y), a if p.all() else b, "s d", "f32")
    with pytest.raises(
        ShapeError, match=r"select: the shapes differ; given \{s=3,bool\} and \{s=3,d=2,f32\}"
    ):
        c.all("d").select(x, y)
    with pytest.raises(ShapeError, match="select: no operand is a Tensor"):
        c.select(1.0, 2.0)


def test_scalars_meet_every_shape() -> None:
    (x, a), (y, b) = draw(1, s=3), draw(2)
    check(x + y, a + b, "s", "f32")
    check(y - x, b - a, "s", "f32")
    check(y * y, b * b, "", "f32")
    assert str((y + x.partitioned(s="m")).shape) == "{s=3/m,f32}"


def test_shapes_and_types_are_not_adapted_unasked() -> None:
    x = draw(1, s=3, d=2)[0]
    other: Any
    for other, message in [
        (
            draw(2, d=2)[0],
            r"add: the shapes differ; given \{s=3,d=2,f32\} and \{d=2,f32\}; .* broadcast\(\)",
        ),
        (draw(2, d=2, s=3)[0], r"use transpose\('s', 'd'\) on the second"),
        (draw(2, s=4, d=2)[0], "the dims must be equal"),
        (draw(2, s=1, d=2)[0], "the dims must be equal"),
        (
            draw(2, "bf16", s=3, d=2)[0],
            r"element types differ; given \{s=3,d=2,f32\} and \{s=3,d=2,bf16\}",
        ),
        (draw(2, "bf16")[0], "element types differ"),
        (np.float32(1), "does not become|expected a Tensor"),
        (True, r"True \(bool\) does not become an element of type f32"),
        (1j, "does not become an element of type f32"),
    ]:
        with pytest.raises(ShapeError, match=message):
            x + other
    with pytest.raises(
        ShapeError, match=r"add: 1.5 \(float\) does not become an element of type i8"
    ):
        draw(1, "i8", s=2)[0] + 1.5
    with pytest.raises(
        ShapeError, match="add: 128 is out of the range of i8, which is -128 to 127"
    ):
        draw(1, "i8", s=2)[0] + 128
    with pytest.raises(
        ShapeError, match="sqrt: it is defined for float or complex elements, not i32"
    ):
        draw(1, "i32", s=2)[0].sqrt()
    with pytest.raises(
        ShapeError, match="div: it is defined for float or complex elements, not i32"
    ):
        draw(1, "i32", s=2)[0] / 2
    with pytest.raises(ShapeError, match="lt: it is defined for int or float elements, not c64"):
        draw(1, "c64", s=2)[0] < 1  # noqa: B015


REAL = [dtype for dtype in DType if dtype.kind in ("int", "float") and dtype.bits not in (6, 64)]


@pytest.mark.parametrize("dtype", REAL)
def test_each_type_is_made_converted_and_compared(dtype: DType) -> None:
    values = [1, 2, 4] if dtype.kind == "float" else [0, 1, 1]
    x = Tensor(np.array(values, np.float32), ("s",)).convert(dtype)
    assert x.dtype == dtype
    check(x.convert("f32"), values, "s", "f32")
    check(x == 1, np.array(values) == 1, "s", "bool")
    check(ops.constant(1, {"s": 3}, dtype).convert("i32"), np.ones(3), "s", "i32")
    check(x.dot(x, "s", dtype="f32"), np.dot(values, values), "", "f32")
    check(ops.stack([x, x], "t").choose(t=1).convert("f32"), values, "s", "f32")


@pytest.mark.parametrize("dtype", ["f6e2m3fn", "f6e3m2fn"])
def test_six_bit_types_are_moved_and_have_no_constants(dtype: str) -> None:
    x = Tensor(np.arange(4).astype(DType.of(dtype).numpy), ("s",))
    moved = jax.jit(lambda x: x.split("s", a=2, b=2).transpose("b", "a"))(x)
    assert np.asarray(moved.value).astype(np.float32).tolist() == [[0, 2], [1, 3]]
    with pytest.raises(UnsupportedError, match=f"constant: XLA has no constants of type {dtype}"):
        ops.zeros({"s": 1}, dtype)


def test_conversion_rounds_floats_to_even_and_cuts_to_integers() -> None:
    x = Tensor(np.array([1 + 2**-8, 1 + 3 * 2**-8, -2.7, 2.7], np.float32), ("s",))
    check(x.convert("bf16").convert("f32"), [1, 1 + 2**-6, -2.703125, 2.703125], "s", "f32")
    check(x.convert("i32"), [1, 1, -2, 2], "s", "i32")
    assert x.convert("f32") is x
    with pytest.raises(ShapeError, match=r"f32 has no imaginary part; given {s=2,c64}"):
        draw(0, "c64", s=2)[0].convert("f32")
    with pytest.raises(ShapeError, match="convert: JAX has 64-bit types switched off, and i64"):
        x.convert("i64")


def test_bitcast() -> None:
    x, _ = draw(0, "f32", s=3)
    host = np.asarray(x.value)
    check(x.bitcast("u32"), host.view(np.uint32), "s", "u32")
    parts = x.bitcast("u8", tag="byte")
    check(parts, host.view(np.uint8).reshape(3, 4), "s byte", "u8")
    check(parts.transpose("byte", "s").bitcast("f32", tag="byte"), host, "s", "f32")
    packed = Tensor(np.array([0x21, 0xFE], np.uint8), ("s",))
    check(packed.bitcast("u4", tag="half").convert("i32"), [[1, 2], [14, 15]], "s half", "i32")
    check(
        packed.bitcast("i2", tag="q").convert("i32"),
        [[1, 0, -2, 0], [-2, -1, -1, -1]],
        "s q",
        "i32",
    )
    check(packed.bitcast("u4", tag="half").bitcast("u8", tag="half"), [0x21, 0xFE], "s", "u8")
    floats = np.array([0x31], np.uint8).view(np.uint8)
    nibbles = Tensor(floats, ("s",)).bitcast("f4e2m1fn", tag="half").convert("f32")
    check(
        nibbles,
        np.array([[1, 3]], np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32),
        "s half",
        "f32",
    )
    with pytest.raises(ShapeError, match=r"f32 has 32 bits and u8 has 8; given .*; .* give tag="):
        x.bitcast("u8")
    with pytest.raises(ShapeError, match="an element of u32 has 4 parts of u8, the axis 's' has 3"):
        x.convert("u8").bitcast("u32", tag="s")
    with pytest.raises(ShapeError, match="there is already an axis 's'"):
        x.bitcast("u8", tag="s")
    with pytest.raises(ShapeError, match="a bool has no bits to read"):
        draw(0, "bool", s=2)[0].bitcast("u8")


def test_64_bit_types_where_jax_has_them() -> None:
    with jax.enable_x64(True):
        x, a = draw(0, "f64", s=3, d=4)
        check(x.dot(x.rename(s="t"), "d"), a @ a.T, "s t", "f64")
        check(x.exp() / 3, np.exp(a) / 3, "s d", "f64")
        check(ops.arange("s", 3, dtype="i64") + (1 << 40), np.arange(3) + (1 << 40), "s", "i64")
        check(x.argmax("d"), a.argmax(1), "s", "i32")
        check(x.argsort("d"), a.argsort(1), "s d", "i32")
