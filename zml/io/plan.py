"""What a load reads, decided before it starts: ranges of files, and where their bytes go."""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from zml.declared import Repeat, Source
from zml.io.convert import convert, unpack
from zml.io.safetensors import DTYPE_BITS, STORED, Entry
from zml.io.staged import parts_of
from zml.io.writer import MemoryWriter, Part, Region, Transfer, as_bytes, regions
from zml.shape import Shape
from zml.vfs.base import File

STAGE = 4 << 20
"""Bytes that are read at a time where they do not land in place."""
_BOX = 1 << 20
# Runs that are shorter are read with their neighbours, and copied.
_IN_PLACE = 512 << 10
# Rows of which a process needs less than this are read whole, where its devices do not have all of them.
_RUN = 64 << 10
_GAP = 64 << 10
"""Bytes between two that are wanted which are read too, rather than to ask twice."""
_REMOTE_GAP = 256 << 10


def covered(ranges: Iterable[tuple[int, int]]) -> int:
    """Bytes that are in at least one of some ranges, each a begin and an end."""
    count = reached = 0
    for begin, end in sorted(ranges):
        count += max(0, end - max(begin, reached))
        reached = max(reached, end)
    return count


class Target:
    """A declared tensor that is being read. Its bytes come in any order, from any thread."""

    def __init__(self, name: str, finish: Callable[[], None]) -> None:
        self.name = name
        self._finish = finish
        self._missing = 0
        self._lock = threading.Lock()

    def expect(self, count: int) -> None:
        """Bytes of the file that are to come."""
        self._missing += count

    def arrived(self, count: int) -> None:
        """Some came; with the last ones the tensor is made."""
        with self._lock:
            self._missing -= count
            if self._missing:
                return
        self._finish()


@dataclass(frozen=True, eq=False)
class Piece:
    """Bytes of a file that are a run of bytes of a region."""

    begin: int
    end: int
    target: Target
    writer: MemoryWriter
    offset: int
    """In the region."""
    memory: np.ndarray[Any, Any] | None = None
    """What the region's bytes lie in, with others'; None where the host cannot fill them."""
    at: int = 0
    """Of the piece in the memory."""

    def place(self, data: np.ndarray[Any, Any]) -> list[Transfer]:
        """Takes its bytes."""
        return [self.writer.write(self.offset, data)]

    def filled(self, begin: int, end: int) -> None:
        """They are in the memory by now."""
        offset = self.offset - self.begin
        self.writer.filled(offset + begin, offset + end)


@dataclass(frozen=True, eq=False)
class Box:
    """Bytes of a file of which parts go to several regions, or as other elements: always taken whole."""

    begin: int
    end: int
    target: Target
    fill: Callable[[np.ndarray[Any, Any]], list[Transfer]]

    def place(self, data: np.ndarray[Any, Any]) -> list[Transfer]:
        """Takes its bytes."""
        return self.fill(data)


@dataclass(eq=False)
class Job:
    """One read of a file, for one reader."""

    file: File
    begin: int
    end: int
    items: list[Piece | Box] = field(default_factory=list)
    """By their begin. Of the first and the last one only a part may be meant, if it is read in place."""
    into: np.ndarray[Any, Any] | None = None
    """Where the bytes land; None: in memory of the reader, from where they are copied."""

    @property
    def names(self) -> list[str]:
        """The tensors that it is of."""
        return list(dict.fromkeys(item.target.name for item in self.items))

    def parts(self) -> Iterator[tuple[Piece | Box, int, int]]:
        """The items, with the bytes of each that it reads."""
        for item in self.items:
            yield item, max(item.begin, self.begin), min(item.end, self.end)


@dataclass(frozen=True)
class Memory:
    """What a region is to lie in; equal for two that hold the same of the same tensor."""

    region: Region
    dims: tuple[int, ...]
    """Of the whole tensor."""
    repeat: tuple[int, Repeat] | None
    begin: int
    """The offset in the file that addresses are congruent to."""


@dataclass(frozen=True)
class Planned:
    """A declared tensor, and what devices of this process hold of it."""

    entry: Entry
    where: NamedSharding
    dims: tuple[int, ...]
    """The declared ones, before the repeats."""
    repeat: tuple[int, Repeat] | None
    """With its axis."""
    memory: list[Memory]
    """One for each region that differs."""
    is_direct: bool
    """Whether the bytes are read as runs of the regions' own."""

    @staticmethod
    def of(shape: Shape, source: Source, entry: Entry, where: NamedSharding) -> Planned:
        """Decides how it is read."""
        name, repeat = source.name, source.repeat
        found, dims = regions(name, shape, where), shape.dims
        axis = None
        if repeat is not None:
            dims = tuple(repeat.once(name, dict(zip(shape.tags, dims, strict=True))).values())
            axis = (shape.axis(repeat.tag), repeat)
        same = STORED[entry.dtype] == shape.dtype and DTYPE_BITS[entry.dtype] >= 8
        direct = axis is None and same and is_in_runs(dims, found)
        memory = [
            Memory(r, shape.dims, axis, _first_byte(entry, dims, r) if direct else 0) for r in found
        ]
        return Planned(entry, where, dims, axis, memory, direct)


def pieces(
    entry: Entry,
    dims: Sequence[int],
    writer: MemoryWriter,
    target: Target,
    slot: tuple[np.ndarray[Any, Any], int] | None,
) -> Iterator[Piece]:
    """The runs of a stored tensor, which has the declared dims and type, that make a region. `slot` is its memory."""
    region = writer.region
    if not region.size:
        return
    _, size = runs(dims, region)
    strides = _strides(dims, region.dtype.itemsize)
    first = _first_byte(entry, dims, region)
    memory, at = slot or (None, 0)
    for number, outer in enumerate(np.ndindex(region.dims[: _cut(dims, region)])):
        begin = first + sum(o * stride for o, stride in zip(outer, strides, strict=False))
        offset = number * size
        yield Piece(begin, begin + size, target, writer, offset, memory, at + offset)


def runs(dims: Sequence[int], region: Region) -> tuple[int, int]:
    """How many runs of bytes of an array of these dims a region is, and the bytes of one."""
    count = math.prod(region.dims[: _cut(dims, region)])
    return count, region.size // max(1, count)


def _cut(dims: Sequence[int], region: Region) -> int:
    """The last axis that is cut: runs go on from there."""
    return max((a for a, dim in enumerate(dims) if region.dims[a] != dim), default=0)


def _strides(dims: Sequence[int], itemsize: int) -> list[int]:
    return [math.prod(dims[a + 1 :]) * itemsize for a in range(len(dims))]


def _first_byte(entry: Entry, dims: Sequence[int], region: Region) -> int:
    """Where a region begins in the file."""
    strides = _strides(dims, region.dtype.itemsize)
    return entry.begin + sum(at * stride for at, stride in zip(region.at, strides, strict=True))


def is_in_runs(dims: Sequence[int], regions: Sequence[Region]) -> bool:
    """Whether regions are read run by run, and not as whole rows of which each gets its part."""
    counts = [runs(dims, region) for region in regions]
    if all(count <= 1 for count, _ in counts):
        return True
    here = sum(region.size for region in regions)
    is_whole = here == math.prod(dims) * regions[0].dtype.itemsize
    return not is_whole and all(size >= _RUN for _, size in counts)


def boxes(
    entry: Entry,
    dims: Sequence[int],
    repeat: tuple[int, Repeat] | None,
    writers: Sequence[MemoryWriter],
    target: Target,
) -> Iterator[Box]:
    """A stored tensor in boxes of whole rows. `dims` are the declared ones before the axis of `repeat` is repeated."""
    dtype, is_packed = STORED[entry.dtype].numpy, DTYPE_BITS[entry.dtype] == 4
    whole = Region(target.name, (0,) * len(dims), tuple(dims), dtype, ())
    gathered = [_Gathered(w, repeat) for w in writers]
    for part in parts_of(whole, _BOX):
        takers = [g for g in gathered if g.cut(part) is not None]
        if not takers or part.end == part.begin:
            continue

        def fill(
            data: np.ndarray[Any, Any], part: Part = part, takers: Sequence[_Gathered] = takers
        ) -> list[Transfer]:
            if is_packed:
                halves = np.empty(2 * data.size, np.uint8)
                unpack(data, halves)
                data = halves[part.begin % 2 :][: part.end - part.begin]
            stored = data.view(dtype).reshape(part.dims)
            return [transfer for taker in takers for transfer in taker.take(stored, part)]

        begin, end = part.begin, part.end
        if is_packed:
            # Two elements in a byte, of which two boxes may have one each.
            begin, end = begin // 2, -(-end // 2)
        yield Box(entry.begin + begin, entry.begin + end, target, fill)


class _Gathered:
    """A region that takes its part of boxes, as elements of its own type."""

    def __init__(self, writer: MemoryWriter, repeat: tuple[int, Repeat] | None) -> None:
        self._writer = writer
        self._region = writer.region
        self._axis, self._times = (repeat[0], repeat[1].times) if repeat else (-1, 1)
        self._left = self._region.size
        self._lock = threading.Lock()
        self._host: np.ndarray[Any, Any] | None = None

    def cut(self, part: Part) -> list[tuple[int, int]] | None:
        """What a box and the region have in common, in the declared array; None: nothing."""
        result = []
        for axis, (at, dim) in enumerate(zip(part.at, part.dims, strict=True)):
            times = self._times if axis == self._axis else 1
            own, size = self._region.at[axis], self._region.dims[axis]
            low, high = max(at * times, own), min((at + dim) * times, own + size)
            if low >= high:
                return None
            result.append((low, high))
        return result

    def take(self, stored: np.ndarray[Any, Any], part: Part) -> list[Transfer]:
        """Converts and copies what is the region's."""
        cut = self.cut(part)
        assert cut is not None
        source: list[Any] = []
        for axis, (low, high) in enumerate(cut):
            at = part.at[axis]
            if axis == self._axis:
                source.append(np.arange(low, high) // self._times - at)
            else:
                source.append(slice(low - at, high - at))
        region = self._region
        own: list[Any] = [
            slice(low - at, high - at) for (low, high), at in zip(cut, region.at, strict=True)
        ]
        host, view = self._memory()
        into = host[(*own, ...)]
        convert(stored[(*source, ...)], into)
        with self._lock:
            self._left -= into.nbytes
            if self._left:
                return []
        if view:
            self._writer.filled(0, region.size)
            return []
        self._host = None
        return [_Kept(self._writer.write(0, as_bytes(host.reshape(-1).view(np.uint8))), host)]

    def _memory(self) -> tuple[np.ndarray[Any, Any], bool]:
        """The region as an array, and whether it is the device's own memory."""
        with self._lock:
            if self._host is None:
                view = self._writer.view()
                if view is not None:
                    self._host = np.frombuffer(view, np.uint8).view(self._region.dtype)
                else:
                    self._host = np.empty(math.prod(self._region.dims), self._region.dtype)
                self._host = self._host.reshape(self._region.dims)
                self._in_place = view is not None
            return self._host, self._in_place


@dataclass(frozen=True)
class _Kept:
    """Memory that a transfer reads."""

    transfer: Transfer
    host: np.ndarray[Any, Any]

    def wait(self) -> None:
        self.transfer.wait()


def jobs(file: File, items: Sequence[Piece | Box]) -> list[Job]:
    """The reads of a file, by offset: long runs in place, in parts that suit the medium, and the rest in stages."""
    gap = _GAP if file.alignment > 1 else _REMOTE_GAP
    result: list[Job] = []
    staged: list[Piece | Box] = []
    for run in _runs(sorted(items, key=lambda item: (item.begin, item.end))):
        first, last = run[0], run[-1]
        if isinstance(first, Piece) and first.memory is not None:
            if last.end - first.begin >= _IN_PLACE:
                result += _in_place(file, run)
                continue
            staged += run
        elif isinstance(first, Piece):
            staged += _parts(first)
        else:
            staged += run
    current: Job | None = None
    for item in sorted(staged, key=lambda item: (item.begin, item.end)):
        if (
            current is None
            or item.begin > current.end + gap
            or max(item.end, current.end) - current.begin > STAGE
        ):
            current = Job(file, item.begin, item.end)
            result.append(current)
        current.items.append(item)
        current.end = max(current.end, item.end)
    return sorted(result, key=lambda job: job.begin)


def _runs(items: Sequence[Piece | Box]) -> Iterator[list[Piece | Box]]:
    """Pieces that follow one another in the file and in memory alike; others alone."""
    run: list[Piece | Box] = []
    for item in items:
        last = run[-1] if run else None
        follows = (
            isinstance(item, Piece)
            and isinstance(last, Piece)
            and item.memory is not None
            and item.memory is last.memory
            and item.begin == last.end
            and item.at - last.at == item.begin - last.begin
        )
        if run and not follows:
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _in_place(file: File, run: Sequence[Piece | Box]) -> Iterator[Job]:
    first, ends = run[0], [item.end for item in run]
    assert isinstance(first, Piece) and first.memory is not None
    begin, stop = first.begin, ends[-1]
    while begin < stop:
        # Cut at multiples of a part; a short end goes with the part before it.
        end = (begin + file.part // 4) // file.part * file.part + file.part
        end = end if stop - end > file.part // 4 else stop
        at = first.at + begin - first.begin
        low = bisect.bisect_right(ends, begin)
        high = bisect.bisect_left(ends, end) + 1
        yield Job(file, begin, end, list(run[low:high]), first.memory[at : at + end - begin])
        begin = end


def _parts(piece: Piece) -> Iterator[Piece]:
    """A piece in parts that are transferred without a copy, or that fit a stage."""
    begin = piece.offset
    stop = begin + piece.end - piece.begin
    for part in piece.writer.parts:
        low, high = max(part.begin, begin), min(part.end, stop)
        for at in range(low, high, STAGE):
            end = min(at + STAGE, high)
            offset = piece.begin - begin
            yield Piece(at + offset, end + offset, piece.target, piece.writer, at)
