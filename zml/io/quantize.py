"""Matrices that are quantized as they stream in: the packed arrays, and a few rows of the stored ones at a time."""

import threading
from typing import Any

import numpy as np

from zml.declared import Quantized
from zml.errors import CheckpointError
from zml.io.memory import Slabs, aligned
from zml.io.read import read_into
from zml.io.safetensors import STORED, Entry
from zml.kernels.cpu.formats import BLOCK, Format, Packed
from zml.kernels.cpu.quantize import quantize_rows

_CHUNK_BYTES = 4 << 20
"""Of stored rows: what a thread holds beside the packed arrays, small enough for a processor's cache."""


class Scratch(threading.local):
    """Memory of each thread for the rows that it has read."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """An array that is valid until the thread's next call."""
        size = shape[0] * shape[1] * dtype.itemsize
        if self._bytes.size < size:
            self._bytes = aligned((size,), np.dtype(np.uint8))
        return self._bytes[:size].view(dtype).reshape(shape)


class Quantizing:
    """A stored matrix [n, columns] on its way into packed arrays. Threads may take its chunks in any order."""

    def __init__(
        self, entry: Entry, name: str, how: Quantized, scratch: Scratch, slabs: Slabs
    ) -> None:
        self._entry = entry
        self._name = name
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

    def take(self, first: int) -> Packed | None:
        """Reads and quantizes a chunk. The last one to be done gets the packed arrays.

        Raises CheckpointError for a file that ends before, and for elements that are NaN or infinite.
        """
        with self._lock:
            # Not before there is something to fill them with: there is one of these for each weight of a model.
            packed = self._packed = self._packed or self._empty()
        stored = self._read(first, min(first + self._step, self._rows))
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

    def _read(self, first: int, end: int) -> np.ndarray[Any, Any]:
        """The rows [first, end) of the matrix with its repeats."""
        rows = self._stored_rows(np.arange(first, end))
        low, high = (int(rows.min()), int(rows.max()) + 1) if rows.size else (0, 0)
        stored = self._scratch.array((high - low, self._columns), self._dtype)
        read_into(stored, self._entry, self._name, low * self._columns * self._dtype.itemsize)
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
            f"{self._entry.file}: tensor {self._name!r} has {stored[row, column]} at {where}, which cannot be "
            "quantized: load it without, or fetch the file again"
        )
