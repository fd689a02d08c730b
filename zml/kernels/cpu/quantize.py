"""Quantizing weights: by the native library, or by numpy to the same bits where there is none.

The rules, in float32, are those of `native/quantize.h`.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from zml.kernels.cpu import library
from zml.kernels.cpu.formats import BLOCK, GROUP, Format, Packed, pack

_BF16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
_TYPES = {np.dtype(np.float32): 0, _BF16: 1, np.dtype(np.float16): 2}
_ELEMENTS = 1 << 18  # that numpy has at a time, several times over
_SMALLEST = np.float32(2.0**-126)
_DIVISORS = (-8.0, -8.5, -7.2, -8.2, -8.8, -7.8, -8.3, -7.0, -8.6, -8.1, -7.7, -8.4)
"""What the element of the largest magnitude may become in int4."""


def quantize(w: np.ndarray[Any, Any], format: Format) -> Packed:
    """A weight [rows, columns] of float32, bfloat16 or float16. Raises ValueError where it holds NaN or infinities."""
    rows, columns = w.shape
    values = np.empty(format.values_dims(rows, columns), format.values_dtype)
    scales = np.empty(format.scales_dims(rows, columns), format.scales_dtype)
    if not quantize_rows(w, format, values, scales):
        raise ValueError(f"a weight [{rows}, {columns}] to quantize has NaN or infinite elements")
    return Packed(values, scales, rows, columns, format)


def quantize_rows(
    w: np.ndarray[Any, Any],
    format: Format,
    values: np.ndarray[Any, Any],
    scales: np.ndarray[Any, Any],
) -> bool:
    """Some rows [n, columns] of a weight into their blocks of its packed arrays; False where an element is not finite.

    All but the last rows of a weight come in multiples of 16. Other threads of Python run meanwhile.
    """
    rows, columns = w.shape
    assert values.shape == format.values_dims(rows, columns)
    assert scales.shape == format.scales_dims(rows, columns)
    native = library.load()
    if isinstance(native, library.Missing):
        return _rows_by_numpy(w, format, values, scales)
    w = np.ascontiguousarray(w)
    assert values.flags.c_contiguous and scales.flags.c_contiguous
    finite: int = native.symbols.zml_cpu_quantize(
        format.code, _TYPES[w.dtype], w.ctypes, rows, columns, values.ctypes, scales.ctypes
    )
    return bool(finite)


def _rows_by_numpy(
    w: np.ndarray[Any, Any],
    format: Format,
    values: np.ndarray[Any, Any],
    scales: np.ndarray[Any, Any],
) -> bool:
    rows, columns = w.shape
    step = max(1, _ELEMENTS // max(1, columns) // BLOCK) * BLOCK
    for first in range(0, rows, step):
        wide = w[first : first + step].astype(np.float32)
        if not np.isfinite(wide).all():
            return False
        packed = pack(*by_numpy(wide, format), format)
        blocks = slice(first // BLOCK, first // BLOCK + len(packed.values))
        values[blocks], scales[blocks] = packed.values, packed.scales
    return True


def by_numpy(
    w: np.ndarray[Any, Any], format: Format
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """q [rows, columns] and scales [rows, groups], or [rows, 1] of int8_channel, of finite float32 [rows, columns]."""
    rows, columns = w.shape
    padded = np.pad(w, ((0, 0), (0, -columns % GROUP)))
    grouped = padded.reshape(rows, -1, padded.shape[1] if format is Format.INT8_CHANNEL else GROUP)
    q, scales = _int4(grouped) if format is Format.INT4 else _int8(grouped, format)
    return q.reshape(rows, -1)[:, :columns].astype(np.int8), scales


def _int8(
    w: np.ndarray[Any, Any], format: Format
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    peak = np.abs(w).max(2, initial=0)
    scales = np.where(peak > 0, np.maximum(peak / np.float32(127), _SMALLEST), np.float32(0))
    if format is Format.INT8:
        scales = ((scales.view(np.uint32) + 0xFFFF) & 0xFFFF0000).view(np.float32)
    q = np.rint(w / np.where(scales == 0, np.float32(1), scales)[..., None])
    return q, scales.astype(format.scales_dtype)


def _int4(w: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    at = np.abs(w).argmax(2)[..., None]
    largest = np.take_along_axis(w, at, 2)[..., 0]
    best: tuple[np.ndarray[Any, Any], ...] = ()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for divisor in _DIVISORS:
            scales = (largest / np.float32(divisor)).astype(_BF16).astype(np.float32)
            scales = np.where(np.abs(scales) < _SMALLEST, -np.copysign(_SMALLEST, largest), scales)
            scales = np.where(largest == 0, np.float32(0), scales)
            inverse = np.where(largest == 0, np.float32(0), np.float32(1) / scales)
            q = np.clip(np.rint(w * inverse[..., None]), -8, 7)
            off = w - scales[..., None] * q
            error = np.zeros_like(scales)
            for c in range(GROUP):  # one after the other, as the native code sums
                error += off[..., c] * off[..., c]
            if not best:
                best = q, scales, error
                continue
            better = error < best[2]
            best = (
                np.where(better[..., None], q, best[0]),
                np.where(better, scales, best[1]),
                np.where(better, error, best[2]),
            )
    return best[0], best[1].astype(_BF16)
