"""Matrices that are quantized as they stream in: the packed arrays, and a few rows of the stored ones at a time."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from zml.declared import Quantized
from zml.errors import CheckpointError
from zml.io.memory import PAGE, Slabs
from zml.io.safetensors import STORED, Entry
from zml.kernels.cpu.formats import BLOCK, Format, Packed
from zml.kernels.cpu.quantize import quantize_rows
from zml.vfs.base import Cancellation, File

_CHUNK_BYTES = 4 << 20
"""Of stored rows: what a thread holds beside the packed arrays, small enough for a processor's cache."""


class Scratch(threading.local):
    """Memory of each thread for the rows that it has read."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, size: int, begin: int) -> np.ndarray[Any, Any]:
        """Bytes that are valid until the thread's next call, at an address congruent to an offset in a file."""
        if self._bytes.size < size + PAGE:
            self._bytes = np.empty(size + PAGE, np.uint8)
        at = (begin - self._bytes.ctypes.data) % PAGE
        return self._bytes[at : at + size]


class Quantizing:
    """A stored matrix [n, columns] on its way into packed arrays. Threads may take its chunks in any order."""

    def __init__(
        self,
        entry: Entry,
        file: File,
        name: str,
        how: Quantized,
        scratch: Scratch,
        slabs: Slabs,
    ) -> None:
        self.file = file
        self.name = name
        self._entry = entry
        self._how = how
        self._scratch = scratch
        self._slabs = slabs
        self._format = Format(how.format)
        self._dtype = STORED[entry.dtype].numpy
        stored_rows, self._columns = entry.shape
        self._rows = stored_rows * how.times
        row_bytes = max(1, self._columns * self._dtype.itemsize)
        self._step = max(1, _CHUNK_BYTES // row_bytes // BLOCK) * BLOCK
        self._lock = threading.Lock()
        self._packed: Packed | None = None
        self._left = len(self.chunks())

    def chunks(self) -> list[int]:
        """The first rows of the chunks."""
        return list(range(0, self._rows, self._step)) or [0]

    def begin(self, first: int) -> int:
        """Where a chunk begins in the file."""
        row = int(self._stored_rows(np.array([first]))[0])
        return self._entry.begin + row * self._columns * self._dtype.itemsize

    def take(
        self, first: int, cancellation: Cancellation, seen: Callable[[int, memoryview], None]
    ) -> Packed | None:
        """Reads and quantizes a chunk. The last one to be done gets the packed arrays.

        `seen` is given what was read, with its offset in the file. Raises ReadError, and CheckpointError for elements
        that are NaN or infinite.
        """
        with self._lock:
            # Not before there is something to fill them with: there is one of these for each weight of a model.
            packed = self._packed = self._packed or self._empty()
        stored = self._read(first, min(first + self._step, self._rows), cancellation, seen)
        at = first // BLOCK
        blocks = slice(at, at + -(-len(stored) // BLOCK))
        values, scales = packed.values[blocks], packed.scales[blocks]
        if not quantize_rows(stored, self._format, values, scales):
            self._refuse(first, stored)
        with self._lock:
            self._left -= 1
            return packed if self._left == 0 else None

    def _empty(self) -> Packed:
        f, size = self._format, (self._rows, self._columns)
        values = self._slabs.array(f.values_dims(*size), f.values_dtype)
        scales = self._slabs.array(f.scales_dims(*size), f.scales_dtype)
        return Packed(values, scales, *size, f)

    def _read(
        self,
        first: int,
        end: int,
        cancellation: Cancellation,
        seen: Callable[[int, memoryview], None],
    ) -> np.ndarray[Any, Any]:
        """The rows [first, end) of the matrix with its repeats."""
        rows = self._stored_rows(np.arange(first, end))
        low, high = (int(rows.min()), int(rows.max()) + 1) if rows.size else (0, 0)
        row_bytes = self._columns * self._dtype.itemsize
        begin, size = self._entry.begin + low * row_bytes, (high - low) * row_bytes
        raw = self._scratch.array(size, begin)
        self.file.read_into(begin, memoryview(raw), cancellation)
        seen(begin, memoryview(raw))
        stored = raw.view(self._dtype).reshape(high - low, self._columns)
        if raw.ctypes.data % self._dtype.itemsize:
            stored = stored.copy()  # the kernels want whole elements' addresses
        if stored.dtype == np.float64:
            with np.errstate(over="ignore"):
                stored = stored.astype(np.float32)
        return stored if self._how.times == 1 else stored[rows - low]

    def _stored_rows(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        span = self._how.span
        stored: np.ndarray[Any, Any] = rows // (span * self._how.times) * span + rows % span
        return stored

    def _refuse(self, first: int, stored: np.ndarray[Any, Any]) -> None:
        row, column = np.argwhere(~np.isfinite(stored.astype(np.float32)))[0]
        where = [int(self._stored_rows(first + row)), int(column)]
        raise CheckpointError(
            f"{self._entry.file}: tensor {self.name!r} has {stored[row, column]} at {where}, which cannot be "
            "quantized: load it without, or fetch the file again"
        )
