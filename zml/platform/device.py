"""A device of a platform."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zml.pjrt.client import device_attributes
from zml.sharding import Device as Leaf


@dataclass(frozen=True)
class Device(Leaf):
    """A device: its place (id, process, coords, core; see zml.sharding.Device), its memories and what is in them.

    `handle` is the jax.Device. A physical mesh can be made of them.
    """

    local: bool = True
    """Whether it is of this process: values can be put on it and read from it."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the runtime says of it, by name: compute capability, number of cores, ..."""
        return device_attributes(self.handle)

    @property
    def memories(self) -> tuple[str, ...]:
        """The kinds of memory it can use, its own first: `device`, `pinned_host`, `unpinned_host`."""
        if not self.local:
            return ()
        own = self.handle.default_memory().kind
        kinds = {memory.kind for memory in self.handle.addressable_memories()} - {own}
        return (own, *sorted(kinds))

    @property
    def memory_stats(self) -> Mapping[str, int] | None:
        """Bytes of its own memory by name (`bytes_in_use`, `bytes_limit`, ...); None where the runtime counts none."""
        return self.handle.memory_stats() if self.local else None
