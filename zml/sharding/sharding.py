"""The sharding: a named way to cut shapes over devices, and what JAX has to know of it."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zml.errors import ShardingError
from zml.shape import OPEN, Shape
from zml.sharding.logical import LogicalMesh
from zml.sharding.physical import Device, PhysicalMesh
from zml.sharding.strategy import Strategy


@dataclass(frozen=True)
class Cut:
    """An axis of a shape that is cut: `tag` over `logical`, `size` parts."""

    axis: int
    tag: str
    logical: str
    size: int


@dataclass(frozen=True)
class Sharding:
    """`Sharding.of("model", platform.mesh, LogicalMesh(model=HIGH_BANDWIDTH))`.

    For JAX each logical axis that cuts something is one axis of a jax Mesh, named after it. Where a fold joins physical
    axes that are no neighbours in the tree, the devices are put in the order in which the fold counts them, instead of
    naming the axes out of order in a PartitionSpec: the order of devices is then the same for device_put, for the
    compiled program and for Placement, and XLA's partitioner, which aborts on some of them, sees no axis cut over mesh
    axes that are out of order.
    """

    name: str
    physical: PhysicalMesh
    logical: LogicalMesh
    strategy: Strategy

    def __post_init__(self) -> None:
        self.strategy.check(self.logical, self.physical)

    @staticmethod
    def of(
        name: str,
        physical: PhysicalMesh,
        logical: LogicalMesh,
        strategy: Strategy | None = None,
    ) -> "Sharding":
        """A sharding by a given strategy, or by the one that the logical axes' intents suggest."""
        return Sharding(name, physical, logical, strategy or Strategy.suggest(logical, physical))

    @functools.cached_property
    def bindings(self) -> dict[str, tuple[str, ...]]:
        """The physical axes, slowest first, of each logical axis, in the order of the logical mesh."""
        bound = dict(self.strategy.bindings)
        return {name: bound[name] for name in self.logical.names}

    def size(self, logical: str) -> int:
        """How many parts an axis is cut into that is closed on `logical`."""
        if logical not in self.bindings:
            raise ShardingError(
                f"sharding {self.name!r} has no logical axis {logical!r}; it has {', '.join(self.bindings)}"
            )
        return math.prod(self.physical.sizes[axis] for axis in self.bindings[logical])

    def covers(self, shape: Shape) -> bool:
        """Whether it has every logical axis that the shape is closed on."""
        return all(p in self.bindings for p in shape.partitions if isinstance(p, str))

    def cuts(self, shape: Shape, among: Iterable[str] | None = None) -> tuple[Cut, ...]:
        """The axes of a shape that are cut, in its order; if `among` is given, only by those logical axes.

        Raises ShardingError for a logical axis that this sharding lacks and for a dim that does not divide.
        """
        closed = [
            Cut(axis, tag, cut, self.size(cut))
            for axis, (tag, cut) in enumerate(zip(shape.tags, shape.partitions, strict=True))
            if isinstance(cut, str)
        ]
        if among is not None:
            closed = [cut for cut in closed if cut.logical in among]
        taken: set[str] = set()
        kept: list[Cut] = []
        # Of logical axes that share a physical one, the first of the logical mesh has it, wherever its axis stands.
        for cut in sorted(closed, key=lambda cut: self.logical.names.index(cut.logical)):
            if taken.isdisjoint(self.bindings[cut.logical]):
                taken.update(self.bindings[cut.logical])
                kept.append(cut)
                self._check_divides(shape, cut)
        return tuple(sorted((cut for cut in kept if cut.size > 1), key=lambda cut: cut.axis))

    def _check_divides(self, shape: Shape, cut: Cut) -> None:
        dim = shape.dims[cut.axis]
        if dim % cut.size:
            raise ShardingError(
                f"the dim {cut.tag}={dim} of {shape} does not divide by the {cut.size} shards of its logical axis "
                f"{cut.logical!r} ({'+'.join(self.bindings[cut.logical])}) in sharding {self.name!r}; make it a "
                f"multiple of {cut.size} (pad it, or repeat KV heads with zml.sharding.repeat_heads), leave it "
                f"replicated, or use a number of devices that divides {dim}"
            )

    @functools.cached_property
    def _groups(self) -> dict[str, tuple[str, ...]]:
        """The axes of the jax Mesh with the physical axes of each: those bound, then each physical axis left over."""
        groups: dict[str, tuple[str, ...]] = {}
        for name, axes in self.bindings.items():
            if axes and axes not in groups.values():
                groups[name] = axes
        used = set(itertools.chain.from_iterable(groups.values()))
        groups |= {axis: (axis,) for axis in self.physical.sizes if axis not in used}
        order = list(self.physical.sizes)
        return dict(sorted(groups.items(), key=lambda item: min(map(order.index, item[1]))))

    @functools.cached_property
    def leaves(self) -> tuple[int, ...]:
        """The leaves of the physical mesh in the order of the jax Mesh: that of the program's partitions."""
        order = list(self.physical.sizes)
        tree = np.arange(len(self.physical.devices)).reshape(list(self.physical.sizes.values()))
        fold_order = [order.index(axis) for axes in self._groups.values() for axis in axes]
        return tuple(int(leaf) for leaf in tree.transpose(fold_order).flat)

    @functools.cached_property
    def devices(self) -> tuple[Device, ...]:
        """The devices in that order."""
        return tuple(self.physical.devices[leaf] for leaf in self.leaves)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The jax Mesh. Raises ShardingError if its devices are only described."""
        handles = np.empty(len(self.leaves), dtype=object)
        for i, device in enumerate(self.devices):
            if device.handle is None:
                raise ShardingError(
                    f"{device} of sharding {self.name!r} is only described, so no array can live there; "
                    "make the physical mesh from the devices of a platform"
                )
            handles[i] = device.handle
        sizes = [math.prod(self.physical.sizes[a] for a in axes) for axes in self._groups.values()]
        kinds = (AxisType.Auto,) * len(sizes)
        return Mesh(handles.reshape(sizes), tuple(self._groups), axis_types=kinds)

    def mesh_axis(self, logical: str) -> str | None:
        """The axis of `mesh` that a logical axis is, which other logical axes may share; None if it cuts nothing."""
        self.size(logical)
        axes = self.bindings[logical]
        return next((name for name, group in self._groups.items() if axes and group == axes), None)

    def spec(
        self, shape: Shape, *, open_free: bool = False, among: Iterable[str] | None = None
    ) -> PartitionSpec:
        """The PartitionSpec of a shape over `mesh`, for the cuts that `cuts` gives.

        Open axes are whole, or XLA's choice if `open_free`.
        """
        entries: list[object] = [
            PartitionSpec.UNCONSTRAINED if open_free and cut is OPEN else None
            for cut in shape.partitions
        ]
        for cut in self.cuts(shape, among):
            entries[cut.axis] = self.mesh_axis(cut.logical)
        return PartitionSpec(*entries)

    def named(self, shape: Shape, memory_kind: str | None = None) -> NamedSharding:
        """Where an array of that shape lives: for device_put, and for arguments and results of programs."""
        return NamedSharding(self.mesh, self.spec(shape), memory_kind=memory_kind)

    def constraint(self, shape: Shape) -> NamedSharding:
        """For jax.lax.with_sharding_constraint inside a program: as `named`, but XLA chooses for open axes."""
        return NamedSharding(self.mesh, self.spec(shape, open_free=True))

    def replicated(self, memory_kind: str | None = None) -> NamedSharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec(), memory_kind=memory_kind)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        axes = " > ".join(map(str, self.physical.axes))
        yield f"Sharding {self.name!r}: {len(self.physical.devices)} devices, {axes}"
        for name, bound in self.bindings.items():
            where = f"{' + '.join(bound)}, {self.size(name)} shards" if bound else "whole"
            mesh_axis = self.mesh_axis(name)
            shared = f", shared with {mesh_axis}" if mesh_axis not in (None, name) else ""
            yield f"  {name} ({self.logical.intents[name].value}): {where}{shared}"
        if list(self.leaves) != sorted(self.leaves):
            ids = [self.physical.devices[leaf].id for leaf in self.leaves]
            yield f"  devices in the order of the fold: {', '.join(map(str, ids))}"


def select(shardings: Sequence[Sharding], shape: Shape) -> Sharding:
    """The first sharding with every logical axis that the shape is closed on. Raises ShardingError if there is none."""
    for sharding in shardings:
        if sharding.covers(shape):
            return sharding
    known = (
        "; ".join(f"{s.name!r} has {', '.join(s.bindings)}" for s in shardings) or "none was given"
    )
    raise ShardingError(
        f"no sharding has all the logical axes that {shape} is closed on: {known}; "
        "add the missing axis to a LogicalMesh, or leave the dim open"
    )


def check_together(shardings: Sequence[Sharding]) -> None:
    """Raises ShardingError unless one program can use them all: the same devices, in the same order."""
    for other in shardings[1:]:
        first = shardings[0]
        devices = [first.devices, other.devices]
        if devices[0] == devices[1]:
            continue
        pair = f"shardings {first.name!r} and {other.name!r} cannot be used in one program: "
        if set(devices[0]) != set(devices[1]):
            raise ShardingError(
                f"{pair}they are not of the same devices; make both from one platform's mesh"
            )
        ids = [", ".join(str(device.id) for device in some) for some in devices]
        raise ShardingError(
            f"{pair}their folds put the devices in the order {ids[0]} and {ids[1]}, and a program has one order; "
            "say which to use, compile(..., shardings=[...]), fold only neighbouring axes, or the same in both"
        )
