"""What Platform.put, a compiled program and Placement say of the part of each device is the same, however it is cut."""

import functools
import math
import random
from typing import Any

import numpy as np
import pytest

from zml.buffer import Buffer
from zml.compile import CompileOptions
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import (
    HIGH_BANDWIDTH,
    Geometry,
    LogicalMesh,
    Partitioner,
    PhysicalMesh,
    Placement,
    Sharding,
    Strategy,
)
from zml.sharding.physical import AXES
from zml.tensor import Tensor


@functools.cache
def platform(devices: int) -> Platform:
    return Platform.init("cpu", CpuOptions(devices))


def draw(rng: random.Random, devices: int) -> Sharding:
    """Two logical axes bound to physical ones in any order and number; the devices in any order."""
    sizes = dict.fromkeys(rng.sample(AXES, 3), 1)
    for prime in (2, 2, 2, 3):
        if devices % (math.prod(sizes.values()) * prime) == 0:
            sizes[rng.choice(list(sizes))] *= prime
    here = list(platform(devices).devices)
    rng.shuffle(here)
    mesh = PhysicalMesh.given(here, **{name: (n, Geometry.RING) for name, n in sizes.items()})
    bindings: dict[str, list[str]] = {"model": [], "data": []}
    for axis in rng.sample(list(sizes), 3):
        bindings[rng.choice(["model", "model", "data"])].append(axis)
    logical = LogicalMesh(model=HIGH_BANDWIDTH, data=HIGH_BANDWIDTH)
    return Sharding.of("drawn", mesh, logical, Strategy(**bindings))


def check(buffer: Buffer, whole: Any, sharding: Sharding) -> None:
    found = {shard.device.id: shard for shard in buffer.array.addressable_shards}
    for shard in Placement.of(sharding, buffer.shape).shards:
        part = np.asarray(found[shard.device.id].data)
        assert part.shape == shard.dims
        np.testing.assert_array_equal(part, whole[shard.index])


@pytest.mark.parametrize("devices", [1, 3, 6, 8, 12])
def test_they_agree(devices: int) -> None:
    rng = random.Random()
    seed = rng.randrange(1 << 32)
    print("seed", seed)
    rng.seed(seed)
    shardings = [draw(rng, devices) for _ in range(100)]
    permuted = [s for s in shardings if list(s.leaves) != sorted(s.leaves)]
    assert devices < 6 or len(permuted) >= 2, "the draws lost their permuted devices"
    for sharding in shardings[:4] + permuted[:2]:
        dims = {"a": 2 * sharding.size("model"), "b": sharding.size("data"), "c": 3}
        given = Shape(dims, "f32", {"a": "model"})
        result = Shape(dims, "f32", {"a": "model", "b": "data"})
        host = np.random.default_rng(seed).standard_normal(given.dims).astype(np.float32)
        x = platform(devices).put(host, given, sharding=sharding)
        check(x, host, sharding)

        def program(x: Tensor, cuts: Shape = result) -> tuple[Tensor, Tensor, Tensor]:
            kept = (x * 2.0).reuse_buffer(x)
            return kept, x.partitioned(b="data"), x.sum("c").partitioned(a="model")

        for partitioner in Partitioner:
            exe = platform(devices).compile(
                program,
                given,
                shardings=[sharding],
                options=CompileOptions(partitioner=partitioner),
            )
            kept, cut, summed = exe(x)
            check(kept, 2 * host, sharding)
            check(cut, host, sharding)
            assert cut.shape == result
            np.testing.assert_allclose(summed.numpy(), host.sum(2), rtol=1e-5, atol=1e-5)
            x = platform(devices).put(host, given, sharding=sharding)
