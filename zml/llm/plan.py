"""The memory plan of a run: what it takes before anything is loaded."""

from dataclasses import dataclass

from zml.units import binary_size


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the devices, all of them together. `temporaries` is by program; one program runs at a time."""

    weights: int
    kv_cache: int
    temporaries: dict[str, int]
    checkpoint: int

    @property
    def total(self) -> int:
        """Weights, KV cache, and the largest program's temporaries."""
        return self.weights + self.kv_cache + max(self.temporaries.values(), default=0)

    def __str__(self) -> str:
        rows = [("weights", self.weights), ("KV cache", self.kv_cache)]
        rows += [(f"temporaries of {name}", size) for name, size in self.temporaries.items()]
        rows += [
            ("total, one program at a time", self.total),
            ("checkpoint on disk", self.checkpoint),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {binary_size(size):>10}" for name, size in rows)
