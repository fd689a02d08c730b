"""The formats of quantized weights: their arrays, packing and unpacking. `formats.md` says what is where.

These are the reference that the kernels are tested against. They are written for numpy, and unpacking works on JAX
arrays too, so it is what runs where there is no kernel.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

BLOCK = 16
"""The rows that are packed together."""
GROUP = 32
"""The columns that are packed together, and in the grouped formats have a scale."""

_BF16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)


class Format(enum.StrEnum):
    """How a quantized weight is stored."""

    INT8 = "int8"
    INT8_CHANNEL = "int8_channel"
    INT4 = "int4"

    @property
    def code(self) -> int:
        """What the native library calls it."""
        return {"int8": 1, "int8_channel": 2, "int4": 3}[self.value]

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest number."""
        return (-8, 7) if self is Format.INT4 else (-127, 127)

    @property
    def values_dtype(self) -> np.dtype[Any]:
        """The element type of `values`."""
        return np.dtype(np.uint8 if self is Format.INT4 else np.int8)

    @property
    def scales_dtype(self) -> np.dtype[Any]:
        """The element type of `scales`."""
        return np.dtype(np.float32) if self is Format.INT8_CHANNEL else _BF16

    def values_dims(self, rows: int, columns: int) -> tuple[int, int, int]:
        """The dims of `values` of a weight [rows, columns]."""
        size = BLOCK * GROUP
        return -(-rows // BLOCK), -(-columns // GROUP), size // 2 if self is Format.INT4 else size

    def scales_dims(self, rows: int, columns: int) -> tuple[int, ...]:
        """The dims of `scales` of a weight [rows, columns]."""
        blocks, groups, _ = self.values_dims(rows, columns)
        return (blocks, BLOCK) if self is Format.INT8_CHANNEL else (blocks, groups, BLOCK)


@dataclass(frozen=True, eq=False)
class Packed:
    """A quantized weight [rows, columns]: arrays of numpy or JAX. Raises ValueError if they do not fit."""

    values: Any
    scales: Any
    rows: int
    columns: int
    format: Format

    def __post_init__(self) -> None:
        f = self.format
        for name, array, dims, dtype in (
            ("values", self.values, f.values_dims(self.rows, self.columns), f.values_dtype),
            ("scales", self.scales, f.scales_dims(self.rows, self.columns), f.scales_dtype),
        ):
            if array.shape != dims or array.dtype != dtype:
                raise ValueError(
                    f"{name} of {f} [{self.rows}, {self.columns}]: given {array.dtype}{list(array.shape)}, "
                    f"expected {dtype}{list(dims)}"
                )


def pack(q: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], format: Format) -> Packed:
    """Packs q [rows, columns], integers, with scales [rows, groups], or [rows] of int8_channel."""
    rows, columns = q.shape
    blocks, groups, size = format.values_dims(rows, columns)
    padded = np.zeros((blocks * BLOCK, groups * GROUP), np.int8)
    padded[:rows, :columns] = q
    if format is Format.INT4:
        # Of a row's eight columns, the even ones are the first number: (byte of it, nibble of that, number).
        nibbles = (padded + 8).astype(np.uint8).reshape(blocks, BLOCK, groups, 4, 2, 2, 2)
        nibbles = nibbles.transpose(0, 2, 3, 1, 6, 4, 5)
        values = nibbles[..., 0] | nibbles[..., 1] << 4
    else:
        values = padded.reshape(blocks, BLOCK, groups, GROUP // 2, 2).transpose(0, 2, 3, 1, 4)
    values = np.ascontiguousarray(values).reshape(blocks, groups, size)
    per_row = scales.reshape(rows, -1).astype(format.scales_dtype)
    padded_scales = np.zeros((blocks * BLOCK, per_row.shape[1]), per_row.dtype)
    padded_scales[:rows] = per_row
    by_block = padded_scales.reshape(blocks, BLOCK, -1).transpose(0, 2, 1)
    dims = format.scales_dims(rows, columns)
    return Packed(values, np.ascontiguousarray(by_block).reshape(dims), rows, columns, format)


def unpack(weight: Packed) -> tuple[Any, Any]:
    """What was packed: q [rows, columns] of int8, and scales [rows, groups] or, of int8_channel, [rows, 1]."""
    q, scales = _unpack_padded(weight)
    return q.reshape(q.shape[0], -1)[: weight.rows, : weight.columns], scales[: weight.rows]


def dequantize(weight: Packed, dtype: Any = np.float32) -> Any:
    """The weight [rows, columns], multiplied in float32 and rounded to `dtype`."""
    q, scales = _unpack_padded(weight)
    wide = q.astype(np.float32) * scales[..., None].astype(np.float32)
    return wide.reshape(q.shape[0], -1)[: weight.rows, : weight.columns].astype(dtype)


def _unpack_padded(weight: Packed) -> tuple[Any, Any]:
    """All that is stored: q [rows, groups, GROUP], scales [rows, groups or 1]."""
    values = weight.values
    blocks, groups, _ = values.shape
    if weight.format is Format.INT4:
        numbers = values.reshape(blocks, groups, 4, BLOCK, 2, 2, 1)
        nibbles = (numbers >> np.array([0, 4], np.uint8)) & np.uint8(15)
        q = nibbles.astype(np.int8).transpose(0, 3, 1, 2, 5, 6, 4) - np.int8(8)
    else:
        q = values.reshape(blocks, groups, GROUP // 2, BLOCK, 2).transpose(0, 3, 1, 2, 4)
    scales = weight.scales.reshape(blocks, -1, BLOCK).transpose(0, 2, 1)
    return q.reshape(blocks * BLOCK, groups, GROUP), scales.reshape(blocks * BLOCK, -1)
