"""Writers for accelerators: bytes go through blocks of host memory, and transfers overlap with what is read next.

jaxlib has no way to write into a part of a buffer. So a region of up to a block is gathered on the host and put as it
is. Larger ones are put in parts, each a rectangle of the array in its own element type, which a program joins to the
array in place: its first argument is donated, so a device holds the array and the few parts that are on their way,
and not two arrays. There are two such programs at most for a shape: the parts are of one size but for the last.
"""

import bisect
import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import SingleDeviceSharding

from zml.errors import UnsupportedError
from zml.io.dma import Block, DmaAllocator
from zml.io.memory import aligned
from zml.io.writer import DONE, Bytes, MemoryWriter, Part, Region, Transfer, as_bytes
from zml.pjrt import transfer
from zml.pjrt.client import Client
from zml.pjrt.executable import Error
from zml.units import binary_size

# Less than this is gathered in memory of its own: a block is for what is worth pinning.
_SMALL = 1 << 20


def parts_of(region: Region, most: int) -> Iterator[Part]:
    """Rectangles of at most `most` bytes (or one element), each one run of bytes, in their order."""
    dims, itemsize = region.dims, region.dtype.itemsize
    if region.size <= most or region.size == itemsize:
        yield Part(0, region.size, (0,) * len(dims), dims)
        return
    # The axis that is cut: all after it fits, with it too much.
    axis = next(
        a
        for a in range(len(dims))
        if math.prod(dims[a + 1 :]) * itemsize <= most or a == len(dims) - 1
    )
    row = math.prod(dims[axis + 1 :]) * itemsize
    pieces = -(-dims[axis] // max(1, most // row))
    rows = -(-dims[axis] // pieces)
    begin, zeros = 0, (0,) * (len(dims) - axis - 1)
    for outer in np.ndindex(dims[:axis]):
        for first in range(0, dims[axis], rows):
            count = min(rows, dims[axis] - first)
            end = begin + count * row
            inner = dims[axis + 1 :]
            yield Part(begin, end, (*outer, first, *zeros), (1,) * axis + (count, *inner))
            begin = end


@dataclass
class _Flight:
    """Arrays that are being transferred from gathered memory."""

    arrays: Sequence[jax.Array]
    size: int
    block: Block | None

    def ready(self) -> bool:
        try:
            ready: list[Any] = list(self.arrays)
            return all(array.is_ready() for array in ready)
        except RuntimeError:  # its memory was given to a program, after finish had waited for it
            return True

    def land(self) -> None:
        """Waits, and gives the block back."""
        # Who waits for the array itself is told what failed.
        with contextlib.suppress(RuntimeError):
            _Waiting(self.arrays).wait()
        if self.block is not None:
            self.block.release()


@dataclass(frozen=True)
class _Waiting:
    arrays: Sequence[jax.Array]

    def wait(self) -> None:
        """Returns when the arrays are there."""
        for array in self.arrays:
            array.block_until_ready()


@contextlib.contextmanager
def _landing(arrays: Sequence[jax.Array]) -> Iterator[None]:
    """Where the block fails, the transfers that it started end first: their memory may be another's afterwards."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(RuntimeError):
            _Waiting(arrays).wait()
        raise


class Staging:
    """The host memory that gathers what comes in pieces, and the transfers that start from there.

    Nobody waits here for a piece that is still to be written, only for transfers: so writers cannot wait for each
    other. A region that is begun while all blocks are, and no transfer is under way, takes memory of its own.
    """

    def __init__(self, client: Client, block_bytes: int, blocks: int) -> None:
        self._blocks = DmaAllocator(client, block_bytes, blocks)
        self._most = self._blocks.block_bytes * blocks
        self._flags = dict(client.xla_flags) or None
        # Programs go with it: those of a jit that is global keep a client alive.
        self._join = jax.jit(_join, donate_argnums=0, compiler_options=self._flags)
        self._fills: dict[Any, Callable[[], jax.Array]] = {}
        self._lock = threading.Lock()
        self._flights: deque[_Flight] = deque()
        self._flying = 0

    @property
    def pinned(self) -> bool:
        """Whether the blocks are pinned."""
        return self._blocks.pinned

    def writer(self, region: Region) -> "StagedWriter":
        """A writer for a region of an array."""
        default = region.devices[0].default_memory().kind
        # Programs join parts in the devices' own memory only.
        own = region.memory_kind in (None, default)
        most = self._blocks.block_bytes if own else region.size
        return StagedWriter(self, region, parts_of(region, most))

    def gather(self, size: int) -> tuple[np.ndarray[Any, Any], Block | None]:
        """Memory to gather bytes in, and the block it is in."""
        while size > _SMALL and size <= self._blocks.block_bytes:
            if (block := self._blocks.try_take()) is not None:
                return as_bytes(block.memory)[:size], block
            if not self._land():
                break
        return aligned((size,), np.dtype(np.uint8)), None

    def fly(self, arrays: Sequence[jax.Array], size: int, block: Block | None) -> None:
        """Keeps a block until the arrays that are made from it are there."""
        with self._lock:
            self._flights.append(_Flight(arrays, size, block))
            self._flying += size
        # Those that are done hold memory of the devices too.
        self._all_land(self._take_ready())
        while self._flying > self._most and self._land():
            pass

    def zeros(self, region: Region, device: jax.Device) -> jax.Array:
        """An array to join parts to."""
        key = region.dims, region.dtype, device
        with self._lock:
            fill = self._fills.get(key)
            if fill is None:
                fill = self._fills[key] = jax.jit(
                    partial(jnp.zeros, region.dims, region.dtype),
                    out_shardings=SingleDeviceSharding(device, memory_kind=region.memory_kind),
                    compiler_options=self._flags,
                )
        return fill()

    def join(self, array: jax.Array, part: jax.Array, at: tuple[int, ...]) -> jax.Array:
        """The array with a part at a place, in the same memory."""
        joined: jax.Array = self._join(array, part, np.array(at, np.int32))
        return joined

    def close(self) -> None:
        """Waits for all transfers, and unpins."""
        try:
            while self._land():
                pass
        finally:
            self._blocks.close()

    def _land(self) -> bool:
        """Gives back the blocks whose transfers are done; if none are, waits for the oldest. False without any."""
        done = self._take_ready()
        if not done:
            with self._lock:
                if self._flights:
                    done = [self._flights.popleft()]
        self._all_land(done)
        return bool(done)

    def _all_land(self, flights: Iterable[_Flight]) -> None:
        for flight in flights:
            flight.land()
            with self._lock:
                self._flying -= flight.size

    def _take_ready(self) -> list[_Flight]:
        with self._lock:
            ready = {id(flight) for flight in self._flights if flight.ready()}
            done = [flight for flight in self._flights if id(flight) in ready]
            self._flights = deque(flight for flight in self._flights if id(flight) not in ready)
        return done


def _join(array: jax.Array, part: jax.Array, at: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(array, part, [at[axis] for axis in range(array.ndim)])


@dataclass
class _Gathering:
    """A part that comes in pieces."""

    missing: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    host: np.ndarray[Any, Any] | None = None
    block: Block | None = None


class StagedWriter(MemoryWriter):
    """A region that goes to its devices in parts."""

    def __init__(self, staging: Staging, region: Region, parts: Iterable[Part]) -> None:
        super().__init__(region, parts)
        self._staging = staging
        self._begins = [part.begin for part in self.parts]
        self._gathering = [_Gathering(part.end - part.begin) for part in self.parts]
        self._made: list[jax.Array | None] = [None] * len(region.devices)
        self._joining = threading.Lock()

    def view(self) -> None:
        """There is none: the memory is the devices'."""

    def write(self, offset: int, data: Bytes) -> Transfer:
        """Sends a whole part from where it lies; copies what is less to where the part is gathered."""
        source = as_bytes(data)
        end = offset + source.size
        self._claim(offset, end)
        sent: list[jax.Array] = []
        index = max(0, bisect.bisect_right(self._begins, offset) - 1)
        begin = offset
        with _landing(sent):
            while begin < end:
                part = self.parts[index]
                stop = min(end, part.end)
                piece = source[begin - offset : stop - offset]
                if self._is_whole(part, piece):
                    sent += self._send(part, piece)
                else:
                    self._gather(index, begin - part.begin, piece)
                self._arrived(piece.size)
                begin, index = stop, index + 1
        return _Waiting(sent) if sent else DONE

    def _is_whole(self, part: Part, piece: np.ndarray[Any, Any]) -> bool:
        is_aligned = piece.ctypes.data % self.region.dtype.itemsize == 0
        return is_aligned and piece.size == part.end - part.begin

    def _gather(self, index: int, at: int, piece: np.ndarray[Any, Any]) -> None:
        part, gathering = self.parts[index], self._gathering[index]
        with gathering.lock:
            if gathering.host is None:
                size = part.end - part.begin
                gathering.host, gathering.block = self._staging.gather(size)
        # What others copy meanwhile goes elsewhere.
        gathering.host[at : at + piece.size] = piece
        with gathering.lock:
            gathering.missing -= piece.size
            if gathering.missing:
                return
        host, block = gathering.host, gathering.block
        gathering.host = gathering.block = None
        try:
            arrays = self._send(part, host)
        except BaseException:
            if block is not None:
                block.release()
            raise
        self._staging.fly(arrays, host.size, block)

    def _send(self, part: Part, piece: np.ndarray[Any, Any]) -> list[jax.Array]:
        region = self.region
        host = piece.view(region.dtype).reshape(part.dims)
        arrays: list[jax.Array] = []
        with _landing(arrays):
            for device in region.devices:
                arrays.append(transfer.send(host, device, region.memory_kind))
            with self._joining:
                for i, (device, array) in enumerate(zip(region.devices, arrays, strict=True)):
                    if len(self.parts) > 1:
                        whole = self._made[i]
                        if whole is None:
                            whole = self._staging.zeros(region, device)
                        self._made[i] = self._staging.join(whole, array, part.at)
                    else:
                        self._made[i] = array
        return arrays

    def _arrays(self) -> tuple[jax.Array, ...]:
        if not self.size:
            self._send(self.parts[0], np.empty(0, np.uint8))
        arrays = tuple(array for array in self._made if array is not None)
        try:
            # Programs may take the arrays' memory from now on: no block must wait for one of them.
            _Waiting(arrays).wait()
        except Error as error:
            kinds = sorted({device.device_kind for device in self.region.devices})
            raise UnsupportedError(
                f"tensor {self.region.name!r}: {binary_size(self.size)} could not be put on {', '.join(kinds)}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return arrays
