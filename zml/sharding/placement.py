"""The placement: which part of a value each device has, by arithmetic of our own that JAX takes no part in."""

from collections.abc import Mapping
from dataclasses import dataclass

from zml.shape import Shape
from zml.sharding.physical import Device
from zml.sharding.sharding import Cut, Sharding


@dataclass(frozen=True)
class Shard:
    """The part of a value that one device has: a half-open range of each axis."""

    device: Device
    ranges: tuple[tuple[int, int], ...]

    @property
    def index(self) -> tuple[slice, ...]:
        """Takes the part from an array: `array[shard.index]`."""
        return tuple(slice(start, stop) for start, stop in self.ranges)

    @property
    def dims(self) -> tuple[int, ...]:
        """The sizes of the part."""
        return tuple(stop - start for start, stop in self.ranges)


@dataclass(frozen=True)
class Placement:
    """Where a value of a shape is under a sharding. Printable: a line for each part, with the devices that have it."""

    sharding: Sharding
    shape: Shape
    shards: tuple[Shard, ...]
    """One a device, in the order of the physical mesh."""

    @staticmethod
    def of(sharding: Sharding, shape: Shape) -> "Placement":
        """Raises ShardingError if the shape is closed on an unknown logical axis, or a dim does not divide."""
        cuts = {cut.axis: cut for cut in sharding.cuts(shape)}
        shards = []
        for leaf, device in enumerate(sharding.physical.devices):
            at = sharding.physical.coordinates(leaf)
            ranges = tuple(
                _range(sharding, cuts.get(axis), dim, at) for axis, dim in enumerate(shape.dims)
            )
            shards.append(Shard(device, ranges))
        return Placement(sharding, shape, tuple(shards))

    @property
    def parts(self) -> dict[tuple[tuple[int, int], ...], list[Device]]:
        """The different parts, each with the devices that have a copy: a loader reads each part once."""
        parts: dict[tuple[tuple[int, int], ...], list[Device]] = {}
        for shard in self.shards:
            parts.setdefault(shard.ranges, []).append(shard.device)
        return parts

    def __str__(self) -> str:
        parts, copies = self.parts, len(self.shards) // len(self.parts)
        lines = [
            f"Placement of {self.shape} by sharding {self.sharding.name!r}: {len(parts)} part"
            f"{'s' * (len(parts) > 1)} on {len(self.shards)} devices, {copies} cop{'ies' if copies > 1 else 'y'} each"
        ]
        rows = []
        for ranges, devices in parts.items():
            axes = zip(self.shape.tags, self.shape.dims, ranges, strict=True)
            part = ", ".join(
                f"{tag}=all" if (start, stop) == (0, dim) else f"{tag}={start}:{stop}"
                for tag, dim, (start, stop) in axes
            )
            ids = ", ".join(str(device.id) for device in devices)
            rows.append((part or "scalar", f"device{'s' * (len(devices) > 1)} {ids}"))
        width = max(len(part) for part, _ in rows)
        return "\n".join([*lines, *(f"  {part:<{width}}  {devices}" for part, devices in rows)])


def _range(sharding: Sharding, cut: Cut | None, dim: int, at: Mapping[str, int]) -> tuple[int, int]:
    """The part of an axis that the device with these coordinates has."""
    if cut is None:
        return 0, dim
    # The coordinates along a fold are the digits of a number; the first axis is the most significant one.
    number = 0
    for axis in sharding.bindings[cut.logical]:
        number = number * sharding.physical.sizes[axis] + at[axis]
    step = dim // cut.size
    return number * step, (number + 1) * step
