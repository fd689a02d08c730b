"""The memory plan of a run: what it takes on each device, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zml.compile import Exe
from zml.llm.programs import Deployment
from zml.units import binary_size


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each of `devices` devices. `temporaries` is by program; one program runs at a time."""

    devices: int
    weights: int
    kv_cache: int
    temporaries: dict[str, int]
    executables: dict[str, int]
    checkpoint: int
    """Bytes on disk."""

    @staticmethod
    def of(deployment: Deployment, programs: Mapping[str, Exe], checkpoint: int) -> MemoryPlan:
        """The plan of compiled programs, which know how their inputs are cut."""
        inputs = next(iter(programs.values())).signature.inputs
        sizes = {
            part: sum(x.shard_bytes for x in inputs if x.name.startswith(f"{part}."))
            for part in ("model", "cache")
        }
        return MemoryPlan(
            devices=len(deployment.platform.devices),
            weights=sizes["model"],
            kv_cache=sizes["cache"],
            temporaries={name: exe.memory.temporaries for name, exe in programs.items()},
            executables={name: exe.memory.code for name, exe in programs.items()},
            checkpoint=checkpoint,
        )

    @property
    def total(self) -> int:
        """Weights, KV cache, all executables, and the largest program's temporaries."""
        largest = max(self.temporaries.values(), default=0)
        return self.weights + self.kv_cache + sum(self.executables.values()) + largest

    def __str__(self) -> str:
        rows = [("weights", self.weights), ("KV cache", self.kv_cache)]
        rows += [(f"temporaries of {name}", size) for name, size in self.temporaries.items()]
        # 0 is what a runtime says that does not know.
        rows += [(f"executable {name}", size) for name, size in self.executables.items() if size]
        rows += [("total, one program at a time", self.total)]
        rows += [("checkpoint on disk", self.checkpoint)]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {binary_size(size):>10}" for name, size in rows]
        devices = "the device" if self.devices == 1 else f"each of {self.devices} devices"
        return "\n".join([f"On {devices}:", *lines])
