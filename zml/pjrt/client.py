"""A PJRT client that belongs to whoever opened it: jax's own table of backends does not know it."""

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jaxlib.version import __version__ as jaxlib_version

from zml.pjrt import elf, executable
from zml.pjrt.build_options import Flag
from zml.pjrt.distributed import Distributed
from zml.pjrt.executable import LoadedProgram, Program
from zml.pjrt.lowering import Module

# PJRT hands attributes out by name and does not list them: these are what XLA's plugins are known to have.
_CLIENT_ATTRIBUTES = (
    "xla_version",
    "stablehlo_current_version",
    "stablehlo_minimum_version",
    "serialize_with_sdy",
    "supports_cross_host_transfers",
)
_DEVICE_ATTRIBUTES = (
    "coords",
    "core_on_chip",
    "num_cores",
    "slice_index",
    "partition_index",
    "compute_capability",
    "core_count",
    "device_vendor",
    "fabric_uuid",
    "numa_node",
)


@dataclass(frozen=True, eq=False)
class Client:
    """One private client of jaxlib, and what a program that is compiled by it depends on."""

    target: str
    raw: Any = field(repr=False)
    library: Path | None = None
    """The plugin it came from; None for the client that is part of jaxlib."""
    xla_flags: Mapping[str, str] = field(default_factory=dict)
    """XLA debug options that every program has to be compiled with here, such as where ptxas is."""
    instructions: str | None = None
    """Names the instruction set of the host, if programs depend on it."""
    distributed: Distributed | None = field(default=None, repr=False)
    """The processes that it spans, if it spans several."""
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while a program is given to several devices: all of them get the programs in one order."""

    @property
    def is_described(self) -> bool:
        """Whether there is nothing to run on."""
        return False

    @cached_property
    def devices(self) -> tuple[Any, ...]:
        """All devices (jax.Device), those of other processes included, in the client's order."""
        return tuple(self.raw.devices())

    @cached_property
    def local_devices(self) -> tuple[Any, ...]:
        """The devices that this process can put values on."""
        return tuple(self.raw.local_devices())

    @property
    def process(self) -> int:
        """Which of the processes this is, from 0."""
        return int(self.raw.process_index())

    @cached_property
    def version(self) -> str:
        """What the runtime says of its version, on one line; jaxlib's for the client that is part of it."""
        if self.library is None:
            return f"jaxlib {jaxlib_version}"
        return " ".join(str(self.raw.platform_version).split())

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """What the plugin says of itself, by name: versions of XLA and StableHLO, abilities."""
        return _attributes(self.raw, _CLIENT_ATTRIBUTES)

    @cached_property
    def traits(self) -> Mapping[str, str]:
        """All that a compiled program depends on beside itself, by name: two clients with the same share programs."""
        traits = {
            **self.portable_traits(),
            "runtime": self.version,
            "topology": self._topology(),
        }
        if self.instructions is not None:
            traits["instructions"] = self.instructions
        if self.distributed is not None:
            traits["process"] = f"{self.process} of {self.distributed.processes}"
        return traits

    def portable_traits(self) -> dict[str, str]:
        """Those that are the same where the devices are only described."""
        devices = self.devices
        kinds = Counter(device.device_kind for device in devices)
        traits = {
            "target": self.target,
            "devices": ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items())),
            "processes": str(len({device.process_index for device in devices})),
            "jaxlib": jaxlib_version,
        }
        attributes = [device_attributes(device) for device in devices]
        if capabilities := sorted(
            {a["compute_capability"] for a in attributes if "compute_capability" in a}
        ):
            traits["compute capability"] = ", ".join(capabilities)
        if self.target == "tpu" and all("coords" in a for a in attributes):
            ends = zip(*(a["coords"] for a in attributes), strict=True)
            traits["grid"] = "x".join(str(max(end) - min(end) + 1) for end in ends)
        if self.library is not None:
            traits["plugin"] = f"{self.library.name}, {elf.identity(self.library)}"
        return traits

    @cached_property
    def fingerprint(self) -> str:
        """The traits in one string: the part of a cache's key that stands for the platform."""
        return "; ".join(f"{name}={value}" for name, value in self.traits.items())

    def compile(
        self,
        module: Module,
        devices: Sequence[jax.Device],
        results: Sequence[jax.ShapeDtypeStruct],
        *,
        shardy: bool,
        flags: Mapping[str, Flag],
    ) -> Program:
        """Compiles for these devices. Raises executable.Error, ValueError or CompileError."""
        return executable.compile_module(
            self.raw, module, devices, results, shardy=shardy, flags=flags, turn=self.turn
        )

    def load(
        self,
        blob: bytes,
        devices: Sequence[jax.Device],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> LoadedProgram:
        """What `Program.serialize` gave. Raises executable.Error or ValueError for what another build gave."""
        return executable.load_program(self.raw, blob, devices, results, turn=self.turn)

    def load_cached(
        self,
        blob: bytes,
        devices: Sequence[jax.Device],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> Program:
        """What `Program.kept` gave. Raises what `load` does."""
        return self.load(blob, devices, results)

    def pin(self, address: int, size: int) -> bool:
        """Lets the devices read host memory where it lies, without a copy into the runtime's own staging memory.

        Address and size are multiples of a page. False where this client has no such thing, as the CPU's has not.
        Raises executable.Error for memory that the system does not let it pin.
        """
        try:
            self.raw.dma_map(address, size)
        except executable.Error as error:
            if "UNIMPLEMENTED" in str(error):
                return False
            raise
        return True

    def unpin(self, address: int) -> None:
        """Takes back `pin`; no transfer may be under way. Raises executable.Error."""
        self.raw.dma_unmap(address)

    def _topology(self) -> str:
        """Stands for the ids, processes and places of the devices, and for what they can do."""
        places = [
            (d.id, d.process_index, sorted(map(str, device_attributes(d).items())))
            for d in self.devices
        ]
        return hashlib.sha256(repr(places).encode()).hexdigest()[:16]


def device_attributes(device: Any) -> Mapping[str, Any]:
    """What the runtime says of a jax.Device, by name: coordinates, compute capability, number of cores, ..."""
    return _attributes(device, _DEVICE_ATTRIBUTES)


def _attributes(thing: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    found = {name: getattr(thing, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
