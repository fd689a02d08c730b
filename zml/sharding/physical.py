"""The physical mesh: which devices there are, and what joins them."""

import enum
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zml.errors import ShardingError

AXES = ("link", "link_x", "link_y", "link_z", "bus")
"""The names of physical axes, fastest first: cores or peers of an island, the directions of a grid, the way between."""


class Geometry(enum.Enum):
    """How the devices along an axis reach each other."""

    POINT_TO_POINT = "point-to-point"
    """Each reaches each, at the same speed (a switch)."""
    RING = "ring"
    """Neighbours only, along one closed line."""
    MESH = "mesh"
    """Neighbours only, in a grid with open ends."""
    TORUS = "torus"
    """Neighbours only, in a grid whose ends are joined."""
    TREE = "tree"
    """Through shared hubs: PCIe, sockets, a network."""
    ISOLATED = "isolated"
    """Not at all."""


@dataclass(frozen=True)
class Device:
    """What a mesh needs to know about a device. `handle` is the jax.Device, None for one that is only described."""

    id: int
    platform: str = "cpu"
    kind: str = ""
    process: int = 0
    slice: int | None = None
    """Which island of fast links, numbered by the runtime, where it has several (TPU slices, NVLink domains)."""
    coords: tuple[int, ...] = ()
    core: int = 0
    """Which core of the chip at `coords`."""
    peers: frozenset[int] | None = None
    """The ids of the devices with a direct link to this one; None if nobody asked."""
    handle: Any = field(default=None, repr=False)

    @staticmethod
    def of(device: Any) -> "Device":
        """Describes a jax.Device by its public attributes, which depend on its platform."""
        return Device(
            id=device.id,
            platform=device.platform,
            kind=device.device_kind,
            process=device.process_index,
            slice=getattr(device, "slice_index", None),
            coords=tuple(getattr(device, "coords", None) or ()),
            core=getattr(device, "core_on_chip", None) or 0,
            handle=device,
        )

    def __str__(self) -> str:
        place = f" at {self.coords}" if self.coords else ""
        return f"device {self.id}{place}" + (f", process {self.process}" if self.process else "")


@dataclass(frozen=True)
class PhysicalAxis:
    """One level of the tree of devices."""

    name: str
    size: int
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.name not in AXES:
            raise ShardingError(
                f"{self.name!r} is not a physical axis; expected one of {', '.join(AXES)}"
            )
        if self.size < 1:
            raise ShardingError(
                f"physical axis {self.name!r} has size {self.size}; expected 1 or more"
            )

    def __str__(self) -> str:
        return f"{self.name} x{self.size} ({self.geometry.value})"


@dataclass(frozen=True)
class PhysicalMesh:
    """A tree of devices in which all branches of a level are alike: a level is an axis, the root's comes first.

    `devices` are the leaves, left to right. A device's coordinates are the branches taken on the way down to it.
    """

    axes: tuple[PhysicalAxis, ...]
    devices: tuple[Device, ...]

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        if not names or len(set(names)) < len(names):
            raise ShardingError(
                f"physical axes {names}: expected at least one, each once; name the levels of the tree "
                f"from {', '.join(AXES)}"
            )
        if (leaves := math.prod(axis.size for axis in self.axes)) != len(self.devices):
            sizes = " x ".join(f"{axis.name}={axis.size}" for axis in self.axes)
            raise ShardingError(
                f"a mesh of {sizes} has {leaves} places, but {len(self.devices)} devices were given; "
                "the product of the axes must be the number of devices"
            )
        counts = Counter(device.id for device in self.devices)
        if twice := sorted(id for id, count in counts.items() if count > 1):
            raise ShardingError(
                f"devices {twice} come twice in the mesh; each device has one place"
            )

    @staticmethod
    def given(devices: Sequence[Any], **axes: tuple[int, Geometry]) -> "PhysicalMesh":
        """A mesh of a given form: `PhysicalMesh.given(platform.devices, bus=(2, TREE), link=(4, POINT_TO_POINT))`.

        `devices` are Device or jax.Device, in the order of the tree's leaves: the last axis changes fastest.
        """
        described = (d if isinstance(d, Device) else Device.of(d) for d in devices)
        levels = (PhysicalAxis(name, size, geometry) for name, (size, geometry) in axes.items())
        return PhysicalMesh(tuple(levels), tuple(described))

    @property
    def sizes(self) -> Mapping[str, int]:
        """The size of each axis, in the tree's order."""
        return {axis.name: axis.size for axis in self.axes}

    @property
    def fastest_first(self) -> tuple[str, ...]:
        """The axes to split over, fastest first. Those of size 1 count only if there is no other."""
        useful = [axis for axis in self.axes if axis.size > 1] or self.axes
        key = {
            axis.name: (axis.geometry is Geometry.ISOLATED, AXES.index(axis.name))
            for axis in useful
        }
        return tuple(sorted(key, key=lambda name: key[name]))

    def coordinates(self, leaf: int) -> dict[str, int]:
        """Where leaf number `leaf` is along each axis."""
        result: dict[str, int] = {}
        for axis in reversed(self.axes):
            leaf, result[axis.name] = divmod(leaf, axis.size)
        return result

    def __str__(self) -> str:
        count = len(self.devices)
        lines = [
            f"PhysicalMesh: {count} device{'s' * (count > 1)}, {' > '.join(map(str, self.axes))}"
        ]
        lines += self._branches("", 0, 0, count)
        return "\n".join(lines)

    def _branches(self, indent: str, level: int, start: int, count: int) -> list[str]:
        axis, lines = self.axes[level], list[str]()
        step = count // axis.size
        for i in range(axis.size):
            last = i == axis.size - 1
            leaf = level == len(self.axes) - 1
            name = f": {self.devices[start + i]}" if leaf else ""
            lines.append(f"{indent}{'└─' if last else '├─'} {axis.name} {i}{name}")
            if not leaf:
                deeper = indent + ("   " if last else "│  ")
                lines += self._branches(deeper, level + 1, start + i * step, step)
        return lines
