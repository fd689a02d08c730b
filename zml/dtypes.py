"""The element types and their names: `bf16`, `f32`, `i8`, `u4`, `f8e4m3fn`, ..."""

import enum
from functools import cached_property
from typing import Any, Literal

import ml_dtypes
import numpy as np

from zml.errors import ShapeError

type Kind = Literal["bool", "int", "float", "complex"]


class DType(enum.StrEnum):
    """An element type. It equals its name: `DType.BF16 == "bf16"`."""

    BOOL = "bool"
    I2 = "i2"
    I4 = "i4"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U2 = "u2"
    U4 = "u4"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    F4E2M1FN = "f4e2m1fn"
    F6E2M3FN = "f6e2m3fn"
    F6E3M2FN = "f6e3m2fn"
    F8E3M4 = "f8e3m4"
    F8E4M3 = "f8e4m3"
    F8E4M3B11FNUZ = "f8e4m3b11fnuz"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0FNU = "f8e8m0fnu"
    BF16 = "bf16"
    F16 = "f16"
    F32 = "f32"
    F64 = "f64"
    C64 = "c64"
    C128 = "c128"

    @staticmethod
    def of(value: Any) -> "DType":
        """The DType of a name (`bf16` or `bfloat16`), a numpy or ml_dtypes dtype, or a scalar type (`jnp.bfloat16`).

        A string is never read as one of numpy's own codes, where "i8" has eight bytes.
        """
        if isinstance(value, DType):
            return value
        if not isinstance(value, str):
            try:
                value = np.dtype(value).name
            except TypeError:
                raise ShapeError(
                    f"{value!r} is not an element type; expected one of {NAMES}"
                ) from None
        found = _BY_NAME.get(value)
        if found is None:
            raise ShapeError(f"{value!r} is not an element type of zml; expected one of {NAMES}")
        return found

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype, one of ml_dtypes' where numpy has none."""
        letters = {"bool": "bool_", "bf16": "bfloat16"}.get(self.value)
        if letters is None:
            prefix = {"i": "int", "u": "uint", "f": "float", "c": "complex"}[self.value[0]]
            number, _, variant = self.value[1:].partition("e")
            letters = prefix + number + (f"_e{variant}" if variant else "")
        return np.dtype(getattr(np, letters, None) or getattr(ml_dtypes, letters))

    @cached_property
    def bits(self) -> int:
        """Bits of an element where elements are packed, as they are on a device. A bool takes a byte."""
        if self is DType.BOOL:
            return 8
        return int(self.value.lstrip("biufc").partition("e")[0])

    @cached_property
    def kind(self) -> Kind:
        """What it holds: bool, int (signed or not), float or complex."""
        if self is DType.BOOL:
            return "bool"
        kinds: dict[str, Kind] = {"i": "int", "u": "int", "c": "complex"}
        return kinds.get(self.value[0], "float")

    @property
    def is_unsigned(self) -> bool:
        """Whether it is an integer without a sign."""
        return self.value[0] == "u"

    @cached_property
    def limits(self) -> tuple[Any, Any]:
        """The least and the greatest value, infinite for floats that have infinities. Not for complex numbers."""
        if self.kind == "int":
            span = 1 << self.bits
            return (0, span - 1) if self.is_unsigned else (-span // 2, span // 2 - 1)
        if self.kind == "bool":
            return (False, True)
        if not np.isinf(np.asarray(np.inf).astype(self.numpy)):
            info: Any = ml_dtypes.finfo
            return (info(self.numpy).min, info(self.numpy).max)
        return (-np.inf, np.inf)


NAMES = ", ".join(DType)
_BY_NAME = {dtype.value: dtype for dtype in DType} | {dtype.numpy.name: dtype for dtype in DType}
