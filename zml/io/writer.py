"""Writing bytes into arrays that are being built on devices, from any thread and in any order."""

import bisect
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding

from zml.buffer import Buffer
from zml.errors import ReadError
from zml.ops._args import element_type
from zml.shape import Shape

type Bytes = memoryview | bytes | bytearray | np.ndarray[Any, Any]
"""What is written: contiguous."""


class Transfer(Protocol):
    """What `MemoryWriter.write` has under way."""

    def wait(self) -> None:
        """Returns when the bytes that were given are not read any more. Raises what the runtime raises."""


class _Done:
    def wait(self) -> None:
        """There is nothing to wait for."""


DONE: Transfer = _Done()
"""The bytes were copied before `write` returned."""


@dataclass(frozen=True)
class Part:
    """A rectangle of an array that is one run of bytes: `[begin, end)` of its writer."""

    begin: int
    end: int
    at: tuple[int, ...]
    """Its first element."""
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Region:
    """The part of an array that a writer builds: one that some devices hold."""

    name: str
    """The tensor's, for messages."""
    at: tuple[int, ...]
    """Its first element in the whole array."""
    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    devices: tuple[jax.Device, ...]
    """The devices of this process that hold it."""
    memory_kind: str | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.dims) * self.dtype.itemsize


class MemoryWriter(ABC):
    """Builds one region of an array, on each device that holds it. Any thread may write, in any order, each byte once.

    The bytes are those of the elements, major to minor.
    """

    region: Region
    size: int
    """In bytes."""
    parts: tuple[Part, ...]
    """A write of exactly one of them, from memory that divides by the element's size, is not copied on the host."""

    def __init__(self, region: Region, parts: Iterable[Part]) -> None:
        self.region = region
        self.size = region.size
        self.parts = tuple(parts)
        self._claimed = _Ranges()
        self._missing = self.size
        self._lock = threading.Lock()
        self._finished = False

    @abstractmethod
    def view(self) -> memoryview | None:
        """The region's own memory, where the host can fill it in place: what is read into it is then `filled`."""

    @abstractmethod
    def write(self, offset: int, data: Bytes) -> Transfer:
        """Writes bytes at a byte offset. `data` must not change until the transfer was waited for.

        Raises ValueError for bytes beyond the region, or written before.
        """

    def filled(self, begin: int, end: int) -> None:
        """Says that bytes of `view` are there. Raises ValueError as `write` does, and where there is no view."""
        if self.view() is None:
            raise ValueError(
                f"tensor {self.region.name!r} has no view to be filled: write its bytes"
            )
        self._claim(begin, end)
        self._arrived(end - begin)

    def finish(self) -> tuple[jax.Array, ...]:
        """The arrays, one for each device, with all transfers to them under way or done.

        Raises ReadError if bytes are missing.
        """
        with self._lock:
            if self._missing:
                gap = self._claimed.gap(self.size)
                where = f", from byte {gap} on" if gap is not None else ", which are being written"
                raise ReadError(
                    f"tensor {self.region.name!r}: {self._missing} of {self.size} bytes were not written{where}"
                )
            if self._finished:
                raise ValueError(f"tensor {self.region.name!r}: finish was called before")
            self._finished = True
        return self._arrays()

    @abstractmethod
    def _arrays(self) -> tuple[jax.Array, ...]:
        """What `finish` gives; all bytes are there."""

    def _claim(self, begin: int, end: int) -> None:
        what = f"tensor {self.region.name!r}: bytes [{begin}, {end})"
        if not 0 <= begin <= end <= self.size:
            raise ValueError(f"{what} are not in its {self.size} bytes")
        with self._lock:
            if not self._claimed.add(begin, end):
                raise ValueError(f"{what} were written before, some of them at least")

    def _arrived(self, count: int) -> None:
        with self._lock:
            self._missing -= count


class _Ranges:
    """Ranges that do not overlap; neighbours are joined."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, begin: int, end: int) -> bool:
        """Adds one, unless it overlaps another."""
        if begin == end:
            return True
        at = bisect.bisect_left(self._begins, end)
        if at and self._ends[at - 1] > begin:
            return False
        joins_next = at < len(self._begins) and self._begins[at] == end
        joins_last = at > 0 and self._ends[at - 1] == begin
        if joins_next and joins_last:
            del self._begins[at], self._ends[at - 1]
        elif joins_next:
            self._begins[at] = begin
        elif joins_last:
            self._ends[at - 1] = end
        else:
            self._begins.insert(at, begin)
            self._ends.insert(at, end)
        return True

    def gap(self, size: int) -> int | None:
        """The first of `size` bytes that is in no range."""
        first = self._ends[0] if self._begins and self._begins[0] == 0 else 0
        return first if first < size else None


def as_bytes(data: Bytes) -> np.ndarray[Any, Any]:
    """The same memory as an array of bytes."""
    if isinstance(data, np.ndarray):
        # Of any type: buffers know none of ml_dtypes'.
        return data.reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


class ArrayWriter:
    """An array that is being built: a writer for each region of it that differs."""

    def __init__(self, shape: Shape, where: NamedSharding, writers: Iterable[MemoryWriter]) -> None:
        self.shape = shape
        self.where = where
        self.writers = tuple(writers)

    def finish(self) -> Buffer:
        """The value on the devices, with all transfers under way or done. Raises ReadError if bytes are missing."""
        by_device: dict[jax.Device, jax.Array] = {}
        for writer in self.writers:
            by_device |= zip(writer.region.devices, writer.finish(), strict=True)
        order = self.where.addressable_devices_indices_map(self.shape.dims)
        arrays = [by_device[device] for device in order]
        array = jax.make_array_from_single_device_arrays(self.shape.dims, self.where, arrays)
        return Buffer(array, self.shape)


def regions(name: str, shape: Shape, where: NamedSharding) -> list[Region]:
    """What the devices of this process hold of an array, each part once: those that hold the same share a region.

    Raises ShapeError for an element type that JAX would not make.
    """
    dtype = element_type(f"tensor {name!r}", shape.dtype).numpy
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], list[jax.Device]] = {}
    for device, index in where.addressable_devices_indices_map(shape.dims).items():
        spans = [cut.indices(dim)[:2] for cut, dim in zip(index or (), shape.dims, strict=True)]
        at = tuple(begin for begin, _ in spans)
        dims = tuple(end - begin for begin, end in spans)
        found.setdefault((at, dims), []).append(device)
    return [
        Region(name, at, dims, dtype, tuple(devices), where.memory_kind)
        for (at, dims), devices in found.items()
    ]
