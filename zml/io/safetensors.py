"""The safetensors format: a strict parser of its header.

A file is an 8-byte little-endian header length, a JSON header, then the tensors' bytes. Every violation has an error of
its own, raised before any tensor is read. Specification: the safetensors project's README ("Format").
"""

import itertools
import json
import math
import operator
import struct
from dataclasses import dataclass
from typing import Any

from zml.dtypes import DType
from zml.errors import CheckpointError
from zml.vfs.base import File

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on the header."""

_BEGINNING = 128 << 10

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
    "F64": DType.F64, "C64": DType.C64, "F8_E4M3": DType.F8E4M3FN, "F8_E5M2": DType.F8E5M2,
    "F8_E4M3FNUZ": DType.F8E4M3FNUZ, "F8_E5M2FNUZ": DType.F8E5M2FNUZ, "F8_E8M0": DType.F8E8M0FNU,
    "F4": DType.F4E2M1FN,
}  # fmt: skip
"""The safetensors dtypes that can be loaded: not those of 6 bits, which JAX does not have."""
FLOATS = ("F16", "BF16", "F32", "F64")
"""Those that are converted into one another: the elements of other types mean nothing without a scale."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: URL, the format's dtype name, its shape, and its bytes [begin, end) from the file's start."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(file: File) -> dict[str, Entry]:
    """The tensors of a file by name. Raises CheckpointError with the file's URL for anything out of order, ReadError.

    One read serves most files: the beginning is read as long as headers usually are.
    """
    url, size = file.url, file.size
    beginning = file.read(0, min(size, _BEGINNING))
    if len(beginning) < 8:
        raise CheckpointError(
            f"{url}: {size} bytes is too short for a safetensors file (a header length of 8 bytes is expected)"
        )
    (length,) = struct.unpack("<Q", beginning[:8])
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{url}: the header claims {length} bytes, the format allows {MAX_HEADER_BYTES}: "
            "it is damaged or not a safetensors file"
        )
    if 8 + length > size:
        raise CheckpointError(
            f"{url}: the header claims {length} bytes, but the file has {size - 8} after the header length: "
            "it is cut short or not a safetensors file; fetch it again"
        )
    raw = beginning[8 : 8 + length]
    if len(raw) < length:
        raw += file.read(len(beginning), 8 + length - len(beginning))
    return _parse(url, raw, data=8 + length, size=size)


def _json(raw: bytes) -> Any:
    """What the header says, without what Python's parser takes beyond what JSON and the format's own parser do."""
    # A hook for integers takes time, and a minus is rarely there at all.
    parse_int = _integer if b"-0" in raw else None
    header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_int=parse_int)
    if b"\\u" in raw:
        # Half of a surrogate pair. Nothing else makes one: UTF-8 has none.
        json.dumps(header, ensure_ascii=False).encode("utf-8")
    return header


def _integer(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is not an integer")
    return int(text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"key {name!r:.200} stands there twice")
        result[name] = value
    return result


def _parse(url: str, raw: bytes, data: int, size: int) -> dict[str, Entry]:
    if not raw.startswith(b"{"):
        raise CheckpointError(
            f"{url}: the header begins with {raw[:16]!r}, expected a JSON object: not a safetensors file?"
        )
    try:
        header = _json(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{url}: the header is not valid JSON: {error}") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            f"{url}: __metadata__ is {metadata!r:.200}, expected an object of strings"
        )
    entries = {name: _entry(url, name, value, data, size) for name, value in header.items()}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            what = "overlaps the one before" if entry.begin < end else "leaves a hole before it"
            raise CheckpointError(
                f"{url}: tensor {name!r:.200} begins at data byte {entry.begin - data}, "
                f"expected {end - data}: it {what}"
            )
        end = entry.end
    if end != size:
        raise CheckpointError(
            f"{url}: the tensors end at byte {end}, the file at {size}: {size - end} bytes belong to no tensor"
        )
    return entries


def _entry(url: str, name: str, value: object, data: int, size: int) -> Entry:
    where = f"{url}: tensor {name!r:.200}"
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
    if len(shape) > _MOST_AXES or _most(shape) * DTYPE_BITS[dtype] > _MOST_BITS:
        raise CheckpointError(f"{where}: {dtype} of shape {shape!r:.200} is too large to exist")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - begin):
        takes = f"{bits} bits" if bits % 8 else f"{bits // 8} bytes"
        raise CheckpointError(
            f"{where}: {dtype} {shape!r:.200} takes {takes}, its data_offsets hold {end - begin} bytes"
        )
    return Entry(url, dtype, tuple(shape), begin, end)


def _most(shape: list[int]) -> int:
    """The largest product on the way to the number of elements, at which other readers stop before they meet a 0."""
    return max(itertools.accumulate(shape, operator.mul), default=1)


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 2**63 for x in value)
