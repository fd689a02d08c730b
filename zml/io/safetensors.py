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

from zml.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on the header."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "C64": 64, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


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
                    "not a safetensors file?"
                )
            if 8 + length > size:
                raise CheckpointError(
                    f"{path}: the header claims {length} bytes, but the file has {size - 8} after the header length: "
                    "it is cut short or not a safetensors file; fetch it again"
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return _parse(path, raw, data=8 + length, size=size)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return result


def _parse(path: Path, raw: bytes, data: int, size: int) -> dict[str, Entry]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: the header is a JSON {type(header).__name__}, expected an object"
        )
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, value, data, size) for name, value in header.items()}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            what = "overlaps the one before" if entry.begin < end else "leaves a hole before it"
            raise CheckpointError(
                f"{path}: tensor {name!r} begins at data byte {entry.begin - data}, expected {end - data}: it {what}"
            )
        end = entry.end
    if end != size:
        raise CheckpointError(
            f"{path}: the tensors end at byte {end}, the file at {size}: {size - end} bytes belong to no tensor"
        )
    return entries


def _entry(path: Path, name: str, value: object, data: int, size: int) -> Entry:
    where = f"{path}: tensor {name!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{where}: expected an object of dtype, shape and data_offsets, got {value!r:.200}"
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in DTYPE_BITS:
        raise CheckpointError(
            f"{where}: unknown dtype {dtype!r} (expected one of {', '.join(DTYPE_BITS)})"
        )
    if not _naturals(shape):
        raise CheckpointError(
            f"{where}: the shape is {shape!r:.200}, expected a list of non-negative integers"
        )
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where}: data_offsets is {offsets!r:.200}, expected [begin, end] with begin <= end"
        )
    begin, end = data + offsets[0], data + offsets[1]
    if end > size:
        raise CheckpointError(
            f"{where}: its bytes end at {end}, but the file has {size}: it is cut short; fetch it again"
        )
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - begin):
        raise CheckpointError(
            f"{where}: {dtype} {shape} takes {bits / 8:g} bytes, its data_offsets hold {end - begin}"
        )
    return Entry(path, dtype, tuple(shape), begin, end)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
