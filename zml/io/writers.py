"""The writers of a platform: into host memory that is the CPU's own, or by transfers to accelerators."""

from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import NamedSharding

from zml.io.memory import Slabs
from zml.io.staged import Staging
from zml.io.writer import (
    DONE,
    ArrayWriter,
    Bytes,
    MemoryWriter,
    Part,
    Region,
    Transfer,
    as_bytes,
    regions,
)
from zml.pjrt import transfer
from zml.pjrt.client import Client
from zml.shape import Shape


class Writers:
    """Makes writers for arrays on the devices of a client: `Writers(platform.client)`.

    On the CPU regions are filled in place, in huge pages, and the arrays alias them. Elsewhere, or if `staged`, they go
    through at most `blocks` blocks of `block_bytes` of host memory, pinned where the platform can: see zml.io.staged.
    """

    def __init__(
        self,
        client: Client,
        *,
        block_bytes: int = 32 << 20,
        blocks: int = 8,
        staged: bool | None = None,
    ) -> None:
        if staged is None:
            staged = client.target != "cpu"
        self._slabs = Slabs()
        self._staging = Staging(client, block_bytes, blocks) if staged else None

    @property
    def in_place(self) -> bool:
        """Whether `MemoryWriter.view` gives memory to read into."""
        return self._staging is None

    @property
    def pinned(self) -> bool:
        """Whether transfers start from pinned memory: known when the first was made."""
        return self._staging is not None and self._staging.pinned

    def array(self, name: str, shape: Shape, where: NamedSharding) -> ArrayWriter:
        """An array to be built, placed as `platform.where(shape)` says; `name` is for messages."""
        return ArrayWriter(shape, where, map(self.region, regions(name, shape, where)))

    def region(self, region: Region) -> MemoryWriter:
        """A writer for one region."""
        if self._staging is not None:
            return self._staging.writer(region)
        return InPlaceWriter(region, self._slabs.array(region.dims, region.dtype))

    def close(self) -> None:
        """Waits for all transfers, and gives back the memory they started from."""
        if self._staging is not None:
            self._staging.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class InPlaceWriter(MemoryWriter):
    """Host memory that becomes the array's, on all its devices, without a copy."""

    def __init__(self, region: Region, host: np.ndarray[Any, Any]) -> None:
        whole = Part(0, region.size, (0,) * len(region.dims), region.dims)
        super().__init__(region, [whole])
        self._host = host
        self._bytes = host.reshape(-1).view(np.uint8)

    def view(self) -> memoryview:
        """The memory."""
        return memoryview(self._bytes)

    def write(self, offset: int, data: Bytes) -> Transfer:
        """Copies the bytes."""
        source = as_bytes(data)
        end = offset + source.size
        self._claim(offset, end)
        self._bytes[offset:end] = source
        self._arrived(source.size)
        return DONE

    def _arrays(self) -> tuple[jax.Array, ...]:
        region = self.region
        return tuple(
            transfer.alias(self._host, device, region.memory_kind) for device in region.devices
        )
