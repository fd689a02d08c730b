"""A program that a PJRT client has compiled."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax._src.core import ShapedArray
from jaxlib import _jax, xla_client

from zml.pjrt.build_options import Flag, build_options
from zml.pjrt.lowering import Module
from zml.units import binary_size


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each device that a call takes, as the compiler planned them."""

    arguments: int
    results: int
    reused: int
    """The results that take the memory of donated arguments: counted in both of the above."""
    temporaries: int
    code: int
    """What the runtime says, or, where it does not (on the CPU), the size of the serialized program."""

    @property
    def total(self) -> int:
        """All of it, each byte once."""
        return self.arguments + self.results - self.reused + self.temporaries + self.code

    def __str__(self) -> str:
        parts = {
            "arguments": self.arguments,
            "results": self.results,
            "of them in arguments' memory": self.reused,
            "temporaries": self.temporaries,
            "code": self.code,
            "total": self.total,
        }
        return "\n".join(f"{name:<28} {binary_size(size):>10}" for name, size in parts.items())


class Program(Protocol):
    """A compiled program: on its devices, or for devices that are only described."""

    @property
    def has_effects(self) -> bool:
        """Whether it calls Python back, to print."""

    @property
    def refusal(self) -> str:
        """Why it cannot be called; empty where it can."""

    @property
    def raw(self) -> Any:
        """What is behind it, for benchmarks."""

    @property
    def run(self) -> Callable[[list[jax.Array]], list[jax.Array]]:
        """Runs it."""

    def memory_plan(self) -> MemoryPlan:
        """What a call takes on each device."""

    def cost(self) -> dict[str, float]:
        """What the compiler estimates."""

    def hlo(self) -> str:
        """The program after XLA's own passes."""

    def serialize(self) -> bytes:
        """Machine code for this client's kind of devices and this runtime's version."""

    def kept(self) -> bytes:
        """What the executable cache keeps of it."""


class LoadedProgram:
    """A compiled program on its devices: arrays in, arrays out."""

    refusal = ""

    def __init__(
        self,
        loaded: Any,
        results: Sequence[jax.ShapeDtypeStruct],
        turn: threading.Lock,
        has_effects: bool = False,
        kept_alive: Any = None,
    ) -> None:
        self._loaded = loaded
        self._kept_alive = kept_alive
        self.has_effects = has_effects
        """Whether it calls Python back, to print."""
        handlers = [
            xla_client.array_result_handler(
                ShapedArray(x.shape, x.dtype), x.sharding, committed=True
            )
            for x in results
        ]
        execute = loaded.execute_sharded

        def run(arrays: list[jax.Array]) -> list[jax.Array]:
            return execute(arrays).consume_with_handlers(handlers)

        def run_and_wait(arrays: list[jax.Array]) -> list[jax.Array]:
            outputs = execute(arrays, with_tokens=True)
            made = outputs.consume_with_handlers(handlers)
            # What a program prints is there when the call returns.
            outputs.consume_token().block_until_ready()
            return made

        def run_in_turn(arrays: list[jax.Array]) -> list[jax.Array]:
            # Two threads that donate one buffer, or use it while it is donated, would each find it on some of the
            # devices; those would then wait for the others in a collective, until XLA ends the process.
            with turn:
                outputs = execute(arrays)
            return outputs.consume_with_handlers(handlers)

        several = len(loaded.local_devices()) > 1
        # Not in turn where Python is called back, which may run other programs.
        self.run: Callable[[list[jax.Array]], list[jax.Array]] = (
            run_and_wait if has_effects else run_in_turn if several else run
        )
        """Runs it. The arrays must have the shapes and shardings it was compiled for: nothing is checked."""

    @property
    def raw(self) -> Any:
        """The jaxlib object, for benchmarks."""
        return self._loaded

    def memory_plan(self) -> MemoryPlan:
        """What a call takes on each device, as the compiler planned it."""
        stats = self._loaded.get_compiled_memory_stats()
        code = stats.generated_code_size_in_bytes
        if not code and not self.has_effects:
            code = len(self.serialize())
        return MemoryPlan(
            stats.argument_size_in_bytes,
            stats.output_size_in_bytes,
            stats.alias_size_in_bytes,
            stats.temp_size_in_bytes,
            code,
        )

    def cost(self) -> dict[str, float]:
        """What the compiler estimates: `flops`, `bytes accessed`, ..., of one device."""
        return dict(self._loaded.cost_analysis())

    def hlo(self) -> str:
        """The program after XLA's own passes."""
        return "\n".join(module.to_string() for module in self._loaded.hlo_modules())

    def serialize(self) -> bytes:
        """Machine code for this client's kind of devices and this runtime's version."""
        blob: bytes = self._loaded.serialize()
        return blob

    def kept(self) -> bytes:
        """The same."""
        return self.serialize()


def compile_module(
    client: Any,
    module: Module,
    devices: Sequence[jax.Device],
    results: Sequence[jax.ShapeDtypeStruct],
    *,
    shardy: bool,
    flags: Mapping[str, Flag],
    turn: threading.Lock,
) -> LoadedProgram:
    """Compiles for these devices, in the order of the program's partitions. Raises jax.errors.JaxRuntimeError."""
    options = build_options([device.id for device in devices], shardy, flags)
    more = {"host_callbacks": module.callbacks} if module.callbacks else {}
    loaded = client.compile_and_load(
        module.ir,
        executable_devices=xla_client.DeviceList(tuple(devices)),
        compile_options=options,
        **more,
    )
    return LoadedProgram(loaded, results, turn, module.has_effects, module.kept_alive)


def load_program(
    client: Any,
    blob: bytes,
    devices: Sequence[jax.Device],
    results: Sequence[jax.ShapeDtypeStruct],
    *,
    turn: threading.Lock,
) -> LoadedProgram:
    """A program back from `LoadedProgram.serialize`. Raises jax.errors.JaxRuntimeError for one of another build."""
    device_list = xla_client.DeviceList(tuple(devices))
    options = build_options([device.id for device in devices], shardy=True, flags={})
    return LoadedProgram(client.deserialize_executable(blob, device_list, options), results, turn)


Error = _jax.JaxRuntimeError
"""What the runtime raises."""
