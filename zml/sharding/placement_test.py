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
    names = rng.sample(AXES, rng.randint(1, 4))
    left, sizes = count, []
    for _ in names[1:]:
        sizes.append(rng.choice([n for n in range(1, left + 1) if left % n == 0]))
        left //= sizes[-1]
    rng.shuffle(sizes := [*sizes, left])
    axes = {
        name: (size, rng.choice(list(Geometry))) for name, size in zip(names, sizes, strict=True)
    }
    devices = list(client(count).devices())
    rng.shuffle(devices)
    return PhysicalMesh.given(devices, **axes)


def draw_sharding(rng: random.Random, count: int) -> Sharding:
    """A suggested strategy, or one that folds axes in any order and leaves some unbound."""
    physical = draw_physical(rng, count)
    names = ["model", "expert", "data"][: rng.randint(1, 3)]
    intents = [rng.choice([HIGH_BANDWIDTH, BALANCED, LOW_BANDWIDTH]) for _ in names]
    logical = LogicalMesh(**dict(zip(names, intents, strict=True)))
    if rng.random() < 0.25:
        return Sharding.of("suggested", physical, logical)
    bindings: dict[str, list[str]] = {name: [] for name in names}
    for axis in rng.sample(list(physical.sizes), len(physical.sizes)):
        if rng.random() < 0.85:
            bindings[rng.choice(names)].append(axis)
    return Sharding.of("drawn", physical, logical, Strategy(**bindings))


def draw_partitions(rng: random.Random, sharding: Sharding, tags: str) -> dict[str, Any]:
    """Each logical axis on one axis of the shape or on none."""
    cuts: dict[str, Any] = {tag: rng.choice([OPEN, REPLICATED]) for tag in tags}
    free = rng.sample(tags, len(tags))
    for name in sharding.logical.names:
        if free and rng.random() < 0.85:
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


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 8, 12])
def test_placement_is_where_arrays_and_results_are(count: int) -> None:
    rng = random.Random(f"placement {count}")
    for _ in range(3 if count == 1 else 8):
        sharding = draw_sharding(rng, count)
        tags = "abcd"[: rng.randint(0, 4)]
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
