"""Placement agrees with device_put and with compiled programs, device by device."""

import functools
import math
import random
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from zml.pjrt import cpu
from zml.shape import OPEN, REPLICATED, Shape
from zml.sharding import (
    BALANCED,
    HIGH_BANDWIDTH,
    LOW_BANDWIDTH,
    Geometry,
    LogicalMesh,
    Partitioner,
    PhysicalMesh,
    Placement,
    Sharding,
    Strategy,
    partitioned_by,
)
from zml.sharding.physical import AXES


@functools.cache
def client(count: int) -> Any:
    return cpu.client(count)


def draw_physical(rng: random.Random, count: int) -> PhysicalMesh:
    """Axes in any order, sizes with product `count` (ones too), devices in any order."""
    sizes = dict.fromkeys(rng.sample(AXES, rng.choice([1, 2, 3, 3, 4])), 1)
    for prime in (2, 2, 2, 3, 5):
        if count % (math.prod(sizes.values()) * prime) == 0:
            sizes[min(rng.sample(list(sizes), len(sizes)), key=sizes.__getitem__)] *= prime
    assert math.prod(sizes.values()) == count
    devices = list(client(count).devices())
    rng.shuffle(devices)
    axes = {name: (size, rng.choice(list(Geometry))) for name, size in sizes.items()}
    return PhysicalMesh.given(devices, **axes)


def draw_sharding(rng: random.Random, count: int) -> Sharding:
    """A suggested strategy, or one that folds axes in any order and leaves some unbound."""
    physical = draw_physical(rng, count)
    names = ["model", "expert", "data"][: rng.choice([1, 1, 1, 2, 3])]
    intents = [rng.choice([HIGH_BANDWIDTH, BALANCED, LOW_BANDWIDTH]) for _ in names]
    logical = LogicalMesh(**dict(zip(names, intents, strict=True)))
    if rng.random() < 0.2:
        return Sharding.of("suggested", physical, logical)
    bindings: dict[str, list[str]] = {name: [] for name in names}
    for axis in rng.sample(list(physical.sizes), len(physical.sizes)):
        if rng.random() < 0.9:
            bindings[rng.choice(names)].append(axis)
    return Sharding.of("drawn", physical, logical, Strategy(**bindings))


def draw_partitions(rng: random.Random, sharding: Sharding, tags: str) -> dict[str, Any]:
    """Each logical axis on one axis of the shape or on none."""
    cuts: dict[str, Any] = {tag: rng.choice([OPEN, REPLICATED]) for tag in tags}
    free = rng.sample(tags, len(tags))
    for name in sharding.logical.names:
        if free and rng.random() < 0.95:
            cuts[free.pop()] = name
    return cuts


def check(array: jax.Array, whole: np.ndarray, placement: Placement) -> None:
    """Every device has the part that the placement says."""
    found = {shard.device.id: shard for shard in array.addressable_shards}
    assert len(found) == len(placement.shards)
    for shard in placement.shards:
        part = np.asarray(found[shard.device.id].data)
        assert part.shape == shard.dims
        np.testing.assert_array_equal(part, whole[shard.index])


def run(choice: Partitioner, array: jax.Array, out: NamedSharding) -> jax.Array:
    with partitioned_by(choice):
        return jax.jit(lambda x: x + 1, out_shardings=out)(array)


def is_permuted(sharding: Sharding, shape: Shape) -> bool:
    """Whether the shape is cut by a fold that does not count its devices in the order of the tree."""
    order = [axis.name for axis in sharding.physical.axes if axis.size > 1]
    for cut in sharding.cuts(shape):
        fold = [axis for axis in sharding.bindings[cut.logical] if axis in order]
        if fold != order[order.index(fold[0]) :][: len(fold)]:
            return True
    return False


@pytest.mark.parametrize(
    ("count", "draws", "permuted"),
    [(1, 2, 0), (2, 3, 0), (3, 3, 0), (5, 3, 0), (4, 12, 2), (6, 12, 2), (8, 12, 2), (12, 16, 4)],
)
def test_placement_is_where_arrays_and_results_are(count: int, draws: int, permuted: int) -> None:
    rng = random.Random(f"placement {count}")
    folds = 0
    for _ in range(draws):
        sharding = draw_sharding(rng, count)
        tags = "abcd"[: rng.choice([0, 1, 2, 2, 3, 4])]
        before, after = (draw_partitions(rng, sharding, tags) for _ in range(2))
        sizes = {
            tag: math.lcm(
                *(sharding.size(c[tag]) for c in (before, after) if isinstance(c[tag], str))
            )
            for tag in tags
        }
        dims = {
            tag: size * rng.randint(0 if rng.random() < 0.05 else 1, 2)
            for tag, size in sizes.items()
        }
        source, target = Shape(dims, "i32", before), Shape(dims, "i32", after)
        host = np.arange(source.count, dtype=np.int32).reshape(source.dims)

        folds += is_permuted(sharding, source) or is_permuted(sharding, target)
        placed = jax.device_put(host, sharding.named(source))
        check(placed, host, Placement.of(sharding, source))
        # Shardy is not asked to go from any cut to any other: XLA 0.12 aborts on some of these (see docs/log.md).
        whole = jax.device_put(host, sharding.replicated())
        result = run(Partitioner.SHARDY, whole, sharding.named(target))
        check(result, host + 1, Placement.of(sharding, target))
        same = run(Partitioner.SHARDY, placed, sharding.named(source))
        check(same, host + 1, Placement.of(sharding, source))
        moved = run(Partitioner.GSPMD, placed, sharding.named(target))
        check(moved, host + 1, Placement.of(sharding, target))
    assert folds >= permuted, "the draws lost their folds of distant axes"


def test_a_fold_of_distant_axes_by_hand() -> None:
    """bus=2 x link_x=3 x link=2, `model` folded over (link, bus): device (b, x, l) has part l * 2 + b of four."""
    physical = PhysicalMesh.given(
        client(12).devices(),
        bus=(2, Geometry.TREE),
        link_x=(3, Geometry.RING),
        link=(2, Geometry.POINT_TO_POINT),
    )
    strategy = Strategy(model=("link", "bus"))
    sharding = Sharding.of("fold", physical, LogicalMesh(model=HIGH_BANDWIDTH), strategy)
    placement = Placement.of(sharding, Shape({"s": 2, "d": 8}, "f32", {"d": "model"}))
    assert [shard.ranges[1] for shard in placement.shards] == [
        (2 * (link * 2 + bus), 2 * (link * 2 + bus) + 2)
        for bus in range(2)
        for _ in range(3)
        for link in range(2)
    ]
    assert str(placement).splitlines() == [
        "Placement of {s=2,d=8/model,f32} by sharding 'fold': 4 parts on 12 devices, 3 copies each",
        "  s=all, d=0:2  devices 0, 2, 4",
        "  s=all, d=4:6  devices 1, 3, 5",
        "  s=all, d=2:4  devices 6, 8, 10",
        "  s=all, d=6:8  devices 7, 9, 11",
    ]


def test_a_scalar_is_everywhere() -> None:
    physical = PhysicalMesh.given(client(2).devices(), bus=(2, Geometry.TREE))
    sharding = Sharding.of("all", physical, LogicalMesh(model=HIGH_BANDWIDTH))
    assert "scalar  devices 0, 1" in str(Placement.of(sharding, Shape({}, "f32")))
