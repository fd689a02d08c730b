"""Memory of the host that weights are loaded into."""

import contextlib
import math
import mmap
import threading
from typing import Any

import numpy as np

ALIGNMENT = 64
"""In bytes: PJRT's CPU client aliases memory that is so aligned, and copies other memory."""

_SLAB_BYTES = 64 << 20
_HUGE_PAGE = 2 << 20


def aligned(dims: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array, not filled, that a CPU device can have as its memory: for what does not live long."""
    size = math.prod(dims) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    return buffer[begin : begin + size].view(dtype).reshape(dims)


class Slabs:
    """Arrays side by side in huge pages, where the system has them: a CPU reads weights up to a quarter faster there.

    A slab is given back when the last of its arrays is gone. Any thread may ask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slab = np.empty(0, np.uint8)
        self._used = 0

    def array(self, dims: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """An array, not filled, that a CPU device can have as its memory."""
        size = math.prod(dims) * dtype.itemsize
        with self._lock:
            if self._slab.size - self._used < size:
                # What is left of the old one is never touched, and takes no memory.
                self._slab, self._used = _slab(max(size, _SLAB_BYTES)), 0
            begin = self._used
            self._used += -(-size // ALIGNMENT) * ALIGNMENT
            return self._slab[begin : begin + size].view(dtype).reshape(dims)


def _slab(size: int) -> np.ndarray[Any, Any]:
    mapped = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    slab = np.frombuffer(mapped, np.uint8)
    begin = -slab.ctypes.data % _HUGE_PAGE
    return slab[begin : begin + size]
