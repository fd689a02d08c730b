"""Finds the physical mesh from what devices say about themselves. Pure functions: no device is asked for anything."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from zml.errors import ShardingError
from zml.sharding.physical import Device, Geometry, PhysicalAxis, PhysicalMesh

_GRID = ("link_x", "link_y", "link_z")


def find(devices: Sequence[Any]) -> PhysicalMesh:
    """The physical mesh of devices (Device or jax.Device) of one platform.

    Devices that form no regular tree (hosts of different sizes, a grid with holes) become one `bus`, which is right for
    any number of them and promises nothing about speed. Raises ShardingError for no devices or several platforms.
    """
    described = [d if isinstance(d, Device) else Device.of(d) for d in devices]
    platforms = sorted({d.platform for d in described})
    if len(platforms) != 1:
        raise ShardingError(
            f"a physical mesh is of the devices of one platform, but {len(described)} devices of "
            f"{platforms or 'no platform'} were given"
        )
    if platforms == ["cpu"] and len({d.process for d in described}) == 1:
        return _flat(described)
    gridded = all(len(d.coords) in (2, 3) for d in described) and platforms == ["tpu"]
    return (_grid(described) if gridded else _islands(_linked(described))) or _flat(described)


def _flat(devices: Iterable[Device]) -> PhysicalMesh:
    ordered = tuple(sorted(devices, key=lambda d: (d.slice or 0, d.process, d.id)))
    return PhysicalMesh((PhysicalAxis("bus", len(ordered), Geometry.TREE),), ordered)


def _tree(levels: Sequence[tuple[str, int, Geometry]], devices: Iterable[Device]) -> PhysicalMesh:
    """Leaves out the levels without branches; a lone device hangs on the level below the bus."""
    kept = [level for level in levels if level[1] > 1] or [levels[1]]
    return PhysicalMesh(tuple(PhysicalAxis(*level) for level in kept), tuple(devices))


def _islands(islands: Sequence[Sequence[Device]]) -> PhysicalMesh | None:
    """A bus between islands of equal size, links within; None if the sizes differ."""
    if len({len(island) for island in islands}) != 1:
        return None
    levels = [
        ("bus", len(islands), Geometry.TREE),
        ("link", len(islands[0]), Geometry.POINT_TO_POINT),
    ]
    return _tree(levels, (device for island in islands for device in island))


def _linked(devices: Iterable[Device]) -> list[list[Device]]:
    """The devices that reach each other over links: all of a node, unless their peers are known."""
    nodes: dict[tuple[int, int], list[Device]] = defaultdict(list)
    for device in sorted(devices, key=lambda d: d.id):
        nodes[_node(device)].append(device)
    islands: list[list[Device]] = []
    for _, node in sorted(nodes.items()):
        if any(device.peers is None for device in node):
            islands.append(node)
            continue
        groups: list[list[Device]] = []
        for device in node:
            # Only a group in which each is linked to each is point to point; a chain of links is not.
            home = next((g for g in groups if all(_joined(device, other) for other in g)), None)
            if home is None:
                groups.append([device])
            else:
                home.append(device)
        islands += groups
    return islands


def _node(device: Device) -> tuple[int, int]:
    """Devices with the same answer share a process (CPU), a host or a fabric.

    XLA numbers GPU hosts (by boot id) or fabrics as slices; in a topology that is only described all slices are 0, and
    the first of three coordinates, (slice, host, device), tells them apart.
    """
    if device.platform == "cpu" or (device.slice is None and not device.coords):
        return device.process, 0
    return device.slice or 0, device.coords[0] if len(device.coords) == 3 else 0


def _joined(a: Device, b: Device) -> bool:
    return b.id in (a.peers or ()) and a.id in (b.peers or ())


def _grid(devices: Sequence[Device]) -> PhysicalMesh | None:
    """TPU chips by their coordinates, slices over a bus, cores of a chip over a link; None if the grid has holes."""
    slices: dict[int, list[Device]] = defaultdict(list)
    for device in devices:
        slices[device.slice or 0].append(device)
    forms, leaves = set(), list[Device]()
    for _, members in sorted(slices.items()):
        places = {(*_padded(d.coords), d.core): d for d in members}
        low = [min(place[i] for place in places) for i in range(4)]
        form = tuple(max(place[i] for place in places) - low[i] + 1 for i in range(4))
        if len(places) != len(members) or math.prod(form) != len(members):
            return None
        forms.add(form)
        leaves += [places[place] for place in sorted(places)]
    if len(forms) != 1:
        return None
    *grid, cores = forms.pop()
    joined = _wraps(devices[0].kind, grid)
    levels = [("bus", len(slices), Geometry.TREE)]
    levels += [
        (name, size, Geometry.TORUS if ring else Geometry.MESH)
        for name, size, ring in zip(_GRID, grid, joined, strict=True)
    ]
    levels += [("link", cores, Geometry.POINT_TO_POINT)]
    return _tree(levels, leaves)


def _padded(coords: tuple[int, ...]) -> tuple[int, ...]:
    return coords + (0,) * (3 - len(coords))


def _wraps(kind: str, grid: Sequence[int]) -> list[bool]:
    """Which directions of a TPU slice close upon themselves (Google Cloud's "TPU architecture" pages).

    v4, v5p and 7x are built from cubes of 4x4x4 joined by optical switches: a slice of whole cubes is a torus. The
    others are flat, and an axis closes where it spans the pod: 16 chips (v2, v5e, v6e) or 32 (v3).
    """
    if any(name in kind for name in ("v4", "v5p", "7x")) or kind == "TPU v5":
        return [all(size % 4 == 0 for size in grid)] * len(grid)
    pod = 32 if "v3" in kind else 16
    return [size == pod for size in grid]
