"""The safetensors format: a strict parser of its header.

A file is an 8-byte little-endian header length, a JSON header, then the tensors' bytes. Every violation has an error of
its own, raised before any tensor is read. Specification: the safetensors project's README ("Format").
"""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zml.dtypes import DType
from zml.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on the header."""

# Beyond these a shape is an attack: numpy itself stops at 64 axes.
_MOST_AXES = 64
_MOST_BITS = 8 * (2**63 - 1)

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "C64": 64, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
"""All dtypes of the format, and the bits of an element."""
STORED = {
    "BOOL": DType.BOOL, "I8": DType.I8, "I16": DType.I16, "I32": DType.I32, "I64": DType.I64, "U8": DType.U8,
    "U16": DType.U16, "U32": DType.U32, "U64": DType.U64, "F16": DType.F16, "BF16": DType.BF16, "F32": DType.F32,
    "F64": DType.F64, "F8_E4M3": DType.F8E4M3FN, "F8_E5M2": DType.F8E5M2,
}  # fmt: skip
"""The safetensors dtypes that can be loaded."""
FLOATS = ("F16", "BF16", "F32", "F64")
"""Those that are converted into one another: the elements of other types mean nothing without a scale."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: the format's dtype name, its shape, and its bytes [begin, end) from the file's start."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name. Raises CheckpointError with the file's name for anything out of order."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(
                    f"{path}: {size} bytes is too short for a safetensors file (a header length of 8 bytes is expected)"
                )
            (length,) = struct.unpack("<Q", prefix)
            if length > MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{path}: the header claims {length} bytes, the format allows {MAX_HEADER_BYTES}: "
                    "it is damaged or not a safetensors file"
                )
            if 8 + length > size:
                raise CheckpointError(
                    f"{path}: the header claims {length} bytes, but the file has {size - 8} after the header length: "
                    "it is cut short or not a safetensors file; fetch it again"
                )
            raw = file.read(length)
            if len(raw) < length:
                raise CheckpointError(f"{path}: was cut short while it was read; fetch it again")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return _parse(path, raw, data=8 + length, size=size)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"key {name!r:.200} stands there twice")
        result[name] = value
    return result


def _parse(path: Path, raw: bytes, data: int, size: int) -> dict[str, Entry]:
    if not raw.startswith(b"{"):
        raise CheckpointError(
            f"{path}: the header begins with {raw[:16]!r}, expected a JSON object: not a safetensors file?"
        )
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON: {error}") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            f"{path}: __metadata__ is {metadata!r:.200}, expected an object of strings"
        )
    entries = {name: _entry(path, name, value, data, size) for name, value in header.items()}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            what = "overlaps the one before" if entry.begin < end else "leaves a hole before it"
            raise CheckpointError(
                f"{path}: tensor {name!r:.200} begins at data byte {entry.begin - data}, "
                f"expected {end - data}: it {what}"
            )
        end = entry.end
    if end != size:
        raise CheckpointError(
            f"{path}: the tensors end at byte {end}, the file at {size}: {size - end} bytes belong to no tensor"
        )
    return entries


def _entry(path: Path, name: str, value: object, data: int, size: int) -> Entry:
    where = f"{path}: tensor {name!r:.200}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{where}: expected an object of dtype, shape and data_offsets, got {value!r:.200}"
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(
            f"{where}: unknown dtype {dtype!r:.200} (expected one of {', '.join(DTYPE_BITS)})"
        )
    if not _naturals(shape):
        raise CheckpointError(
            f"{where}: the shape is {shape!r:.200}, expected a list of integers from 0 to 2^63 - 1"
        )
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where}: data_offsets is {offsets!r:.200}, expected [begin, end] with 0 <= begin <= end < 2^63"
        )
    begin, end = data + offsets[0], data + offsets[1]
    if end > size:
        raise CheckpointError(
            f"{where}: its bytes end at {end}, but the file has {size}: it is cut short; fetch it again"
        )
    bits = math.prod(shape) * DTYPE_BITS[dtype] if len(shape) <= _MOST_AXES else _MOST_BITS + 1
    if bits > _MOST_BITS:
        raise CheckpointError(f"{where}: {dtype} of shape {shape!r:.200} is too large to exist")
    if bits != 8 * (end - begin):
        takes = f"{bits} bits" if bits % 8 else f"{bits // 8} bytes"
        raise CheckpointError(
            f"{where}: {dtype} {shape!r:.200} takes {takes}, its data_offsets hold {end - begin} bytes"
        )
    return Entry(path, dtype, tuple(shape), begin, end)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 2**63 for x in value)
