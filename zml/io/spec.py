"""What a model says of one of its weights before any byte of it is read."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightSpec:
    """A declared weight: its name in the checkpoint, its shape, and the axis that is split over the devices.

    A model's weights are a pytree of these; loading, sharding and compiling all follow from it. `split` is None for
    a weight that every device holds whole.
    """

    name: str
    shape: tuple[int, ...]
    split: int | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)
