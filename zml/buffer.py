"""Buffer: a value on the devices. Slice: a value on the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from zml.dtypes import DType
from zml.errors import BufferError, ShapeError
from zml.shape import AxisPartition, Shape, check_tags


@dataclass(frozen=True, eq=False, init=False)
class Slice:
    """Host data with named axes: `Slice(array, ("b", "d"))`. It shares the array's memory."""

    shape: Shape
    data: np.ndarray[Any, Any]

    def __init__(
        self,
        data: Any,
        tags: Iterable[str] = (),
        partitions: Mapping[str, AxisPartition] | None = None,
    ) -> None:
        array, names = np.asarray(data), check_tags(tags)
        if array.ndim != len(names):
            raise ShapeError(
                f"Slice: an array of shape {list(array.shape)} cannot have the tags {list(names)}; "
                "give one tag for each axis"
            )
        dims = dict(zip(names, array.shape, strict=True))
        object.__setattr__(self, "shape", Shape(dims, DType.of(array.dtype), partitions))
        object.__setattr__(self, "data", array)

    def __repr__(self) -> str:
        return f"Slice({self.shape})"


class Buffer:
    """A value on the devices of a platform: a shape with tags, and a jax.Array cut as its partitioning says.

    To JAX's tree functions it is a leaf. Made by a Platform: by `put`, by loading, or as the result of an Exe.
    """

    __slots__ = ("__weakref__", "_array", "shape")

    shape: Shape

    def __init__(self, array: jax.Array, shape: Shape) -> None:
        self._array = array
        self.shape = shape

    @property
    def array(self) -> jax.Array:
        """The array. Raises BufferError once the buffer has been donated."""
        if self._array.is_deleted():
            raise BufferError(
                f"the buffer {self.shape} was donated to a program, which reused its memory for a result; "
                "use that result, or compile without reuse_buffer"
            )
        return self._array

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.shape.dtype

    @property
    def memory(self) -> str:
        """The kind of memory it is in: `device`, `pinned_host` or `unpinned_host`."""
        return self._array.sharding.memory_kind or "device"

    @property
    def donated(self) -> bool:
        """Whether a program took its memory for a result."""
        return self._array.is_deleted()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The whole value on the host; waits for it. A read-only view where the memory is the host's own."""
        return np.asarray(self.array)

    def slice(self) -> Slice:
        """The whole value on the host, with its tags."""
        cuts = dict(zip(self.shape.tags, self.shape.partitions, strict=True))
        return Slice(self.numpy(), self.shape.tags, cuts)

    def item(self) -> Any:
        """The only element, as a Python number; waits for it."""
        if self.shape.count != 1:
            raise ShapeError(f"item: {self.shape} has {self.shape.count} elements, expected 1")
        return self.numpy().item()

    @property
    def is_ready(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        ready: bool = self.array.is_ready()  # type: ignore[attr-defined]  # jax.Array does not declare it
        return ready

    def wait(self) -> Buffer:
        """Returns itself once the value is there."""
        self.array.block_until_ready()
        return self

    def __repr__(self) -> str:
        kind = "" if self.memory == "device" else f", {self.memory}"
        return f"Buffer({self.shape}{kind}{', donated' if self.donated else ''})"
