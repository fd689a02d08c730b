"""A writer of GGUF files (version 3), with ggml's block formats q8_0 and q4_0. Specification: ggml's docs/gguf.md."""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

Value = str | int | float | bool
"""Metadata: str is a string, int uint32, float float32."""

BLOCK = 32
"""Elements that share a scale in q8_0 and q4_0."""
_ALIGNMENT = 32
_TYPES = {"f32": 0, "q4_0": 2, "q8_0": 8, "bf16": 30}
# Bytes of so many elements.
_BYTES = {"f32": (4, 1), "bf16": (2, 1), "q8_0": (34, BLOCK), "q4_0": (18, BLOCK)}
FILE_TYPES = {"bf16": 32, "q8_0": 7, "q4_0": 2}
"""general.file_type."""

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its shape as numpy has it (rows first), and f32, bf16, q8_0 or q4_0."""

    name: str
    shape: tuple[int, ...]
    kind: str

    @property
    def byte_size(self) -> int:
        """Bytes without padding. Raises ValueError where a row is no whole number of blocks."""
        size, elements = _BYTES[self.kind]
        if self.shape[-1] % elements:
            raise ValueError(
                f"{self.name}: rows of {self.shape[-1]} are not a multiple of {elements}, as {self.kind} needs"
            )
        return int(np.prod(self.shape)) // elements * size


def write(
    file: IO[bytes],
    metadata: Mapping[str, Value],
    tensors: Sequence[Tensor],
    chunks: Callable[[int], Iterable[bytes]],
) -> None:
    """Writes a whole file; chunks(i) gives the bytes of tensors[i] piece by piece, in a thread of its own."""
    file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        file.write(_string(key) + _value(value))
    offset = 0
    for tensor in tensors:
        # ggml counts axes from the innermost.
        axes = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        file.write(_string(tensor.name) + axes + struct.pack("<IQ", _TYPES[tensor.kind], offset))
        offset += tensor.byte_size + -tensor.byte_size % _ALIGNMENT
    file.write(bytes(-file.tell() % _ALIGNMENT))
    with ThreadPoolExecutor() as pool:
        # One tensor ahead for each thread, not all of them in memory.
        for tensor, pieces in zip(tensors, _ahead(pool, chunks, len(tensors)), strict=True):
            assert sum(map(len, pieces)) == tensor.byte_size, tensor.name
            file.writelines(pieces)
            file.write(bytes(-tensor.byte_size % _ALIGNMENT))


def _ahead(
    pool: ThreadPoolExecutor, chunks: Callable[[int], Iterable[bytes]], count: int, depth: int = 4
) -> Iterator[list[bytes]]:
    def whole(index: int) -> list[bytes]:
        return list(chunks(index))

    running = deque(pool.submit(whole, index) for index in range(min(depth, count)))
    for following in range(len(running), count + len(running)):
        yield running.popleft().result()
        if following < count:
            running.append(pool.submit(whole, following))


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)


def encode(values: _Floats, kind: str) -> bytes:
    """float32 values in one of the formats; the last axis is a multiple of 32 for the block formats."""
    match kind:
        case "f32":
            return values.tobytes()
        case "q8_0":
            return quantize_q8_0(values)
        case "q4_0":
            return quantize_q4_0(values)
    raise ValueError(f"{kind!r}: expected f32, q8_0 or q4_0")


def quantize_q8_0(values: _Floats) -> bytes:
    """Blocks of a float16 scale d = max|x| / 127 and 32 int8 round(x / d), as ggml's quantize_row_q8_0_ref."""
    x = values.reshape(-1, BLOCK)
    out = np.empty(len(x), [("d", "<f2"), ("q", "i1", BLOCK)])
    d = np.divide(np.abs(x).max(1), 127, dtype=np.float32)
    out["d"] = d
    scaled = x * _inverse(d)[:, None]
    # C's roundf: halves away from zero.
    out["q"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return out.tobytes()


def quantize_q4_0(values: _Floats) -> bytes:
    """Blocks of a float16 scale d = x_m / -8, x_m the x of greatest magnitude, and 32 nibbles floor(x / d + 8.5), at
    most 15, of which the first 16 are the low ones, as ggml's quantize_row_q4_0_ref."""
    x = values.reshape(-1, BLOCK)
    out = np.empty(len(x), [("d", "<f2"), ("q", "u1", BLOCK // 2)])
    largest = x[np.arange(len(x)), np.abs(x).argmax(1)]
    d = np.divide(largest, -8, dtype=np.float32)
    out["d"] = d
    q = np.minimum(x * _inverse(d)[:, None] + np.float32(8.5), 15).astype(np.uint8)
    out["q"] = q[:, : BLOCK // 2] | q[:, BLOCK // 2 :] << 4
    return out.tobytes()


def _inverse(d: _Floats) -> _Floats:
    return np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)


def dequantize(data: bytes, kind: str) -> _Floats:
    """The values of blocks, one row a block."""
    if kind == "q8_0":
        blocks = np.frombuffer(data, [("d", "<f2"), ("q", "i1", BLOCK)])
        q = blocks["q"].astype(np.float32)
    else:
        blocks = np.frombuffer(data, [("d", "<f2"), ("q", "u1", BLOCK // 2)])
        q = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype(np.float32) - 8
    return q * blocks["d"].astype(np.float32)[:, None]
