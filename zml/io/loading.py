"""A load that goes on: its plan, its memory, and the arrays that are being made."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from zml.buffer import Buffer
from zml.declared import Quantized, Source
from zml.errors import ReadError
from zml.io.dma import Block, DmaAllocator
from zml.io.memory import PAGE, Layout, Slabs
from zml.io.plan import (
    STAGE,
    Box,
    Job,
    Memory,
    Piece,
    Planned,
    Target,
    boxes,
    covered,
    jobs,
    pieces,
)
from zml.io.progress import Progress
from zml.io.quantize import Quantizing, Scratch
from zml.io.readers import Work
from zml.io.safetensors import Entry
from zml.io.store import TensorStore, first_names
from zml.io.transform import WORTH_SHARING, Making, plan
from zml.io.verifying import Verifying
from zml.io.writer import ArrayWriter, MemoryWriter, Transfer
from zml.io.writers import InPlaceWriter, Writers
from zml.sharding import Sharding, select
from zml.tensor import Tensor
from zml.vfs.base import Cancellation, File

if TYPE_CHECKING:
    from zml.io.load import Placer

_MOST = 16
"""Readers at a time, at most: each may hold a stage."""


class Loading:
    """The declared tensors of one call of `load`."""

    def __init__(
        self,
        declared: Sequence[Tensor],
        store: TensorStore,
        platform: Placer,
        shardings: Sequence[Sharding] | None,
        verify: bool | None,
    ) -> None:
        """Plans. No memory is touched, nothing is read."""
        self.needed = 0
        """Bytes of files that are of use here."""
        self.files: list[File] = []
        """Those that are read."""
        self._store = store
        self._platform = platform
        self._verifying = Verifying(verify)
        self._writers = Writers(platform.client, block_bytes=STAGE)
        self._buffers: list[Buffer | None] = [None] * len(declared)
        self._jobs: list[Job] = []
        self._quantizing: list[tuple[Quantizing, int, list[_Wanted]]] = []
        self._finishing: list[Callable[[], None]] = []
        self._in_flight: deque[tuple[Block, list[Transfer]]] = deque()
        self._lock = threading.Lock()
        self._plan(self._wanted(declared, shardings))
        blocks = self.streams()[1] * (1 if self._writers.in_place else 2)
        self._stages = DmaAllocator(platform.client, STAGE + PAGE, blocks)

    def streams(self) -> tuple[int, int]:
        """Readers to begin with, and the most."""
        start = max((file.streams for file in self.files), default=1)
        if self._store.streams is not None:
            return self._store.streams, self._store.streams
        return min(start, _MOST), min(4 * start, _MOST)

    def works(self, progress: Progress) -> deque[Work]:
        """What the readers are to do, by file and offset. A source that cannot seek is one work."""
        each: dict[str, list[tuple[int, Work]]] = {file.url: [] for file in self.files}
        for job in self._jobs:
            each[job.file.url].append((job.begin, partial(self._run, job, progress)))
        for quantizing, first, parts in self._quantizing:
            work = partial(self._quantize, quantizing, first, parts, progress)
            each[quantizing.file.url].append((quantizing.begin(first), work))
        # From now on they are held by who does them: memory is to go with what it was read for.
        self._jobs.clear()
        self._quantizing.clear()
        result: deque[Work] = deque()
        for file in self.files:
            ordered = deque(work for _, work in sorted(each[file.url], key=lambda item: item[0]))
            if file.in_order:
                result.append(partial(_one_after_another, ordered))
            else:
                result += ordered
        return result

    def result(self, cancellation: Cancellation | None) -> list[Buffer]:
        """The buffers, in the order of the declared tensors; all works are done. Raises CorruptedError."""
        self._land(0)
        for finish in self._finishing:
            finish()
        self._verifying.finish(cancellation)
        buffers = [buffer for buffer in self._buffers if buffer is not None]
        assert len(buffers) == len(self._buffers)
        return buffers

    def close(self) -> None:
        """Waits for transfers, and gives back all memory but that of the buffers."""
        with contextlib.suppress(Exception):  # of transfers whose results nobody will have
            self._land(0)
        self._jobs.clear()
        self._quantizing.clear()
        self._finishing.clear()
        self._buffers.clear()
        self._stages.close()
        self._writers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is not None:
            # Arrays that were made already: jax keeps what they alias until the collector has run.
            gc.collect()

    # The plan

    def _wanted(
        self, declared: Sequence[Tensor], shardings: Sequence[Sharding] | None
    ) -> list[_Wanted]:
        """The stored tensors that are to be loaded: declared ones, and sources of what is made of them."""
        wanted = []
        for index, tensor in enumerate(declared):
            if isinstance(tensor.source, Source):
                entry = self._store.entries[tensor.source.name]
                chosen = select(shardings, tensor.shape) if shardings else None
                deliver = partial(self._buffers.__setitem__, index)
                wanted.append(_Wanted(tensor, tensor.source, entry, chosen, deliver))
        for making in plan(declared, self._platform, shardings):
            for number, need in enumerate(making.sources):
                source = need.tensor.source
                assert isinstance(source, Source)
                entry = self._store.entries[source.name]
                deliver = partial(self._make, making, number)
                wanted.append(_Wanted(need.tensor, source, entry, need.sharding, deliver, making))
        return sorted(wanted, key=lambda w: (w.entry.file, w.entry.begin))

    def _make(self, making: Making, number: int, buffer: Buffer) -> None:
        for index, made in making.deliver(number, buffer).items():
            self._buffers[index] = made

    def _plan(self, wanted: Sequence[_Wanted]) -> None:
        """Regions by file and offset: first how much memory they need, then the memory, then what is read into it."""
        found = [(w, self._planned(w)) for w in wanted if w.source.quantized is None]
        layout = Layout[_Key]()
        if self._writers.in_place:
            for w, planned in found:
                for memory in planned.memory:
                    # What is made of others outlives them: they have slabs of their own.
                    layout.reserve(_key(w, memory), memory.region.size, memory.begin, w.making)
        slots = layout.allocate()
        items: dict[str, list[Piece | Box]] = {}
        filled: set[_Key] = set()
        for w, planned in found:
            items.setdefault(w.entry.file, []).extend(self._items(w, planned, slots, filled))
        self._plan_quantized([w for w in wanted if w.source.quantized is not None])
        for url in dict.fromkeys(w.entry.file for w in wanted):
            file = self._store.file(url)
            of_file = jobs(file, items.get(url, []))
            self.files.append(file)
            self._jobs += of_file
            quantized = [
                (w.entry.begin, w.entry.end)
                for w in wanted
                if w.source.quantized and w.entry.file == url
            ]
            self.needed += covered(
                [(item.begin, item.end) for item in items.get(url, [])] + quantized
            )
            self._verifying.add(file, [(job.begin, job.end) for job in of_file] + quantized)

    def _planned(self, wanted: _Wanted) -> Planned:
        tensor = wanted.tensor
        where = self._platform.where(tensor.shape, wanted.sharding, tensor.memory)
        return Planned.of(tensor.shape, wanted.source, wanted.entry, where)

    def _items(
        self,
        wanted: _Wanted,
        planned: Planned,
        slots: dict[_Key, tuple[np.ndarray[Any, Any], int]],
        filled: set[_Key],
    ) -> list[Piece | Box]:
        """What is to be read of a tensor, with the writers for it."""
        entry = planned.entry
        writers: list[MemoryWriter] = []
        new: list[tuple[MemoryWriter, Memory]] = []
        for memory in planned.memory:
            region, key = memory.region, _key(wanted, memory)
            if key in slots:
                slab, at = slots[key]
                host = slab[at : at + region.size].view(region.dtype).reshape(region.dims)
                writer: MemoryWriter = InPlaceWriter(region, host)
            else:
                writer = self._writers.region(region)
            writers.append(writer)
            if key in filled:
                # Declared twice, it is there once: arrays do not change.
                writer.filled(0, region.size)
            else:
                new.append((writer, memory))
        if self._writers.in_place:
            filled.update(_key(wanted, memory) for memory in planned.memory)
        array = ArrayWriter(wanted.tensor.shape, planned.where, writers)

        def finish() -> None:
            wanted.deliver(array.finish())

        # What is partly another's is made when all is there: nobody waits for the others' bytes.
        is_shared = len(new) < len(writers)
        target = Target(wanted.source.name, (lambda: None) if is_shared else finish)
        made: list[Piece | Box] = []
        if planned.is_direct:
            for writer, memory in new:
                slot = slots.get(_key(wanted, memory))
                made += pieces(entry, planned.dims, writer, target, slot)
        elif new:
            made += boxes(entry, planned.dims, planned.repeat, [w for w, _ in new], target)
        count = sum(item.end - item.begin for item in made)
        target.expect(count)
        if is_shared or not count:
            self._finishing.append(finish)
        return made

    def _plan_quantized(self, wanted: Sequence[_Wanted]) -> None:
        # The parts of a quantized tensor come from one reading.
        parts: dict[tuple[str, Quantized], list[_Wanted]] = {}
        for w in wanted:
            assert w.source.quantized is not None
            parts.setdefault((w.source.name, w.source.quantized), []).append(w)
        scratch, slabs = Scratch(), Slabs()
        for (name, how), group in parts.items():
            entry = self._store.entries[name]
            file = self._store.file(entry.file)
            quantizing = Quantizing(entry, file, name, how, scratch, slabs)
            self._quantizing += [(quantizing, first, group) for first in quantizing.chunks()]

    # The reads

    def _run(self, job: Job, progress: Progress, cancellation: Cancellation) -> None:
        with _naming(job.names):
            if job.into is not None:
                view = memoryview(job.into)
                job.file.read_into(job.begin, view, cancellation)
                self._verifying.seen(job.file, job.begin, view)
                for item, begin, end in job.parts():
                    assert isinstance(item, Piece)
                    item.filled(begin, end)
            else:
                self._stage(job, cancellation)
        progress.read(job.end - job.begin)
        for item, begin, end in job.parts():
            item.target.arrived(end - begin)

    def _stage(self, job: Job, cancellation: Cancellation) -> None:
        """Reads into a block, from where the items take what is theirs."""
        block = self._stages.take(cancellation)
        transfers: list[Transfer] = []
        try:
            # Congruent to the file, so that a direct read needs no copy of its own.
            at = job.begin % PAGE
            view = block.memory[at : at + job.end - job.begin]
            job.file.read_into(job.begin, view, cancellation)
            self._verifying.seen(job.file, job.begin, view)
            data = np.frombuffer(view, np.uint8)
            for item in job.items:
                transfers += item.place(data[item.begin - job.begin : item.end - job.begin])
        finally:
            with self._lock:
                self._in_flight.append((block, transfers))
        # On accelerators transfers go on while the next block is read.
        self._land(0 if self._writers.in_place else self.streams()[1])

    def _land(self, left: int) -> None:
        """Waits for the oldest transfers until so many are left, and gives their blocks back."""
        while True:
            with self._lock:
                if len(self._in_flight) <= left:
                    return
                block, transfers = self._in_flight.popleft()
            try:
                for transfer in transfers:
                    transfer.wait()
            finally:
                block.release()

    def _quantize(
        self,
        quantizing: Quantizing,
        first: int,
        parts: Sequence[_Wanted],
        progress: Progress,
        cancellation: Cancellation,
    ) -> None:
        def seen(begin: int, data: memoryview) -> None:
            self._verifying.seen(quantizing.file, begin, data)
            progress.read(len(data))

        with _naming([quantizing.name]):
            packed = quantizing.take(first, cancellation, seen)
        for wanted in parts if packed is not None else ():
            buffer = self._platform.put(
                getattr(packed, wanted.source.part),
                wanted.tensor.shape,
                sharding=wanted.sharding,
                memory=wanted.tensor.memory,
                zero_copy=True,
            )
            wanted.deliver(buffer.wait())


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A stored tensor that is to be loaded, and who takes it."""

    tensor: Tensor
    source: Source
    entry: Entry
    sharding: Sharding | None
    deliver: Callable[[Buffer], None]
    making: Making | None = None
    """What it is only a source of."""


type _Key = tuple[Memory, Making | None]


def _key(wanted: _Wanted, memory: Memory) -> _Key:
    """What memory is shared by. Small sources are read again for each making, so that none waits for another's."""
    return memory, wanted.making if memory.region.size < WORTH_SHARING else None


def _one_after_another(works: deque[Work], cancellation: Cancellation) -> None:
    while works:
        works.popleft()(cancellation)


@contextlib.contextmanager
def _naming(names: list[str]) -> Iterator[None]:
    """Says what was read in errors of files."""
    try:
        yield
    except ReadError as error:
        what = f"tensor {names[0]!r} was" if len(names) == 1 else f"{first_names(names)} were"
        raise type(error)(f"{error} (while {what} read)") from error
