"""Hardware that is not here: devices to compile for, and none to run on.

The plugin is loaded, and compiles, in a child process alone. Here the devices are plain data that JAX traces and lowers
for as for real ones.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import jax

from zml.errors import CompileError, UnsupportedError
from zml.pjrt import child
from zml.pjrt.build_options import Flag
from zml.pjrt.child import Kit
from zml.pjrt.client import Client
from zml.pjrt.executable import MemoryPlan
from zml.pjrt.lowering import Module

_MEMORIES = {
    "gpu": ("device", "pinned_host"),
    "tpu": ("device", "pinned_host", "unpinned_host"),
}
"""The kinds of memory of a device, its own first: a compile-only device of a GPU does not say."""


class Memory(str):
    """A kind of memory. Equal to its name: jaxlib looks the name up among a device's memories."""

    __slots__ = ()

    @property
    def kind(self) -> str:
        """The name."""
        return str(self)


@dataclass(frozen=True, eq=False)
class DescribedDevice:
    """What JAX asks of a device that it traces and lowers for."""

    id: int
    client: DescribedRuntime = field(repr=False)
    platform: str
    device_kind: str
    process_index: int
    attributes: Mapping[str, Any] = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        # Coordinates, compute capability, ...: each platform has its own.
        try:
            return self.__dict__["attributes"][name]
        except KeyError:
            raise AttributeError(f"{self!r} has no {name!r}: it is only described") from None

    def default_memory(self) -> Memory:
        """Its own memory."""
        return self.addressable_memories()[0]

    def addressable_memories(self) -> list[Memory]:
        """All kinds of memory that programs may use."""
        return [Memory(kind) for kind in _MEMORIES[self.platform]]

    def memory_stats(self) -> None:
        """Nothing is in it."""


@dataclass(frozen=True, eq=False)
class DescribedRuntime:
    """What JAX asks of the runtime of such a device."""

    platform: str
    platform_version: str
    runtime_type: str = "described"

    def process_index(self) -> int:
        """Programs are compiled as the first process would."""
        return 0


@dataclass(frozen=True, eq=False)
class DescribedClient(Client):
    """A client without a runtime. `raw` is a DescribedRuntime."""

    kit: Kit = field(kw_only=True)
    described: tuple[DescribedDevice, ...] = field(kw_only=True, repr=False)

    @staticmethod
    def of(kit: Kit, xla_flags: Mapping[str, str]) -> DescribedClient:
        """Asks the plugin what the devices are. Raises UnsupportedError if it does not say."""
        try:
            found = child.ask(kit)
        except CompileError as error:
            raise UnsupportedError(
                f"platform {kit.name!r} cannot be described: {error}; check the name, and that the plugin "
                f"{kit.library} is the one that zml was built with"
            ) from error
        runtime = DescribedRuntime(kit.target, found["runtime"])
        devices = tuple(
            DescribedDevice(
                d["id"], runtime, d["platform"], d["kind"], d["process"], d["attributes"]
            )
            for d in found["devices"]
        )
        return DescribedClient(
            kit.target, runtime, kit.library, xla_flags, kit=kit, described=devices
        )

    @property
    def is_described(self) -> bool:
        """Whether there is nothing to run on."""
        return True

    @cached_property
    def devices(self) -> tuple[Any, ...]:
        """All devices, in the plugin's order."""
        return self.described

    @cached_property
    def local_devices(self) -> tuple[Any, ...]:
        """Those of the first process."""
        return tuple(device for device in self.described if device.process_index == 0)

    @property
    def process(self) -> int:
        """The first."""
        return 0

    @cached_property
    def traits(self) -> Mapping[str, str]:
        """Those that are known without the hardware: a real client with the same runs the programs."""
        # A GPU's runtime names its driver, which programs do not depend on; a TPU's is the compiler's build.
        runtime = {"runtime": self.version} if self.target == "tpu" else {}
        return {**self.portable_traits(), **runtime}

    def compile(
        self,
        module: Module,
        devices: Sequence[jax.Device],
        results: Sequence[jax.ShapeDtypeStruct],
        *,
        shardy: bool,
        flags: Mapping[str, Flag],
    ) -> DescribedProgram:
        """Compiles in a child process. Raises CompileError, and says what the child said."""
        if module.has_effects:
            raise CompileError(
                "a program that prints from inside (debug_print) calls back into the process that runs it, and so "
                f"cannot be compiled for {self.kit.name!r}, which is only described"
            )
        with _turn:
            answer = child.compile_module(
                self.kit, module.bytecode(), [device.id for device in devices], shardy, flags
            )
        return DescribedProgram(self.kit.name, answer)

    def load(
        self,
        blob: bytes,
        devices: Sequence[jax.Device],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> NoReturn:
        """There is nothing to load it on."""
        raise CompileError(nowhere(self.kit.name, "load a program on"))

    def load_cached(
        self,
        blob: bytes,
        devices: Sequence[jax.Device],
        results: Sequence[jax.ShapeDtypeStruct],
    ) -> DescribedProgram:
        """What `DescribedProgram.kept` gave."""
        return DescribedProgram(self.kit.name, child.Answer.unpack(blob))


_turn = threading.BoundedSemaphore(2)
"""Each child takes half a gigabyte or more: not as many at once as there are programs."""


class DescribedProgram:
    """A compiled program that cannot run here: its plan, its cost, its bytes."""

    has_effects = False

    def __init__(self, platform: str, answer: child.Answer) -> None:
        self._platform = platform
        self._answer = answer

    @property
    def refusal(self) -> str:
        """Why it cannot be called."""
        return nowhere(self._platform, "run a program on")

    @property
    def raw(self) -> child.Answer:
        """What the child answered."""
        return self._answer

    def run(self, arrays: list[jax.Array]) -> NoReturn:
        """There is nothing to run it on."""
        raise UnsupportedError(self.refusal)

    def memory_plan(self) -> MemoryPlan:
        """What a call takes on each device; GPUs' plugins do not say what the code takes, so that is the program."""
        plan = self._answer.memory
        return MemoryPlan(**{**plan, "code": plan["code"] or len(self._answer.code)})

    def cost(self) -> dict[str, float]:
        """What the compiler estimates; empty where it does not."""
        return dict(self._answer.cost)

    def hlo(self) -> str:
        """The program after XLA's own passes."""
        return zlib.decompress(self._answer.hlo).decode()

    def serialize(self) -> bytes:
        """Machine code for the devices that were described."""
        return self._answer.code

    def kept(self) -> bytes:
        """For the executable cache: all that the child answered."""
        return self._answer.pack()


def nowhere(platform: str, what: str) -> str:
    """The one message of all that needs the hardware."""
    return (
        f"platform {platform!r} is only described: it has devices to compile for and none to {what}; "
        "Exe.serialize() there and Platform.deserialize() on the machine that has them"
    )
