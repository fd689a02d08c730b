"""Memory of the host that weights are loaded into."""

import math
import threading
from collections.abc import Hashable
from typing import Any

import numpy as np

from zml.io import numa
from zml.vfs import direct

ALIGNMENT = 64
"""In bytes: PJRT's CPU client aliases memory that is so aligned, and copies other memory."""

PAGE = 4096
"""In bytes: memory whose address has the remainder of an offset in a file can be read directly."""

_SLAB_BYTES = 64 << 20


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


class Layout[Key]:
    """Memory whose needs are known before: slabs that end where the last of their arrays does.

    Arrays that follow one another in a file do so in memory, so that one read fills several of them.
    """

    def __init__(self) -> None:
        self._slots: dict[Key, tuple[int, int]] = {}
        self._sizes: list[int] = []
        self._current: dict[Hashable, int] = {}

    def reserve(self, key: Key, size: int, begin: int, group: Hashable = None) -> None:
        """Takes bytes which lie in a file from `begin` on: by file, with rising offsets. Again for a key is nothing.

        Those of one `group` have slabs of their own, which go when they go.
        """
        if key in self._slots:
            return
        slab = self._current.get(group)
        if slab is None or self._sizes[slab] >= _SLAB_BYTES:
            slab = self._current[group] = len(self._sizes)
            self._sizes.append(0)
        used = self._sizes[slab]
        # The address is aligned, and congruent to the offset as far as that leaves it: all of it, if that is aligned.
        at = used + (begin - begin % ALIGNMENT - used) % PAGE
        self._slots[key] = (slab, at)
        self._sizes[slab] = at + -(-size // ALIGNMENT) * ALIGNMENT

    def allocate(self) -> dict[Key, tuple[np.ndarray[Any, Any], int]]:
        """The slab of each key, and where in it. No memory is taken before it is filled."""
        slabs = [_slab(size) for size in self._sizes]
        return {key: (slabs[number], at) for key, (number, at) in self._slots.items()}


def _slab(size: int) -> np.ndarray[Any, Any]:
    slab = np.frombuffer(direct.huge_pages(size), np.uint8)
    if len(nodes := numa.nodes()) > 1:
        numa.spread(slab.ctypes.data, size, nodes)
    return slab
