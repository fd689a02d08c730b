"""Two processes with three CPU devices each run one sharded program."""

import jax
import numpy as np

from zml.pjrt import distributed
from zml.shape import Shape
from zml.sharding import (
    HIGH_BANDWIDTH,
    LogicalMesh,
    Placement,
    Sharding,
    Strategy,
    find_physical_mesh,
    manual_computation,
)
from zml.sharding.manual import all_reduce
from zml.testing.processes import run_together

DEVICES = 3


def run_process(process: int, address: str) -> None:
    """What each of the two does; it fails by an exception."""
    joined = distributed.join(address, process, processes=2)
    client = distributed.cpu_client(DEVICES, joined, hostname="127.0.0.1")
    physical = find_physical_mesh(client.devices())
    assert dict(physical.sizes) == {"bus": 2, "link": DEVICES}
    strategy = Strategy(model=("link", "bus"))
    sharding = Sharding.of("two", physical, LogicalMesh(model=HIGH_BANDWIDTH), strategy)

    shape, row = Shape({"d": 12, "o": 4}, "f32", {"d": "model"}), Shape({"o": 4}, "f32")
    host = np.arange(shape.count, dtype=np.float32).reshape(shape.dims)
    array = jax.make_array_from_callback(shape.dims, sharding.named(shape), lambda at: host[at])
    parts = {shard.device.id: shard.index for shard in Placement.of(sharding, shape).shards}
    assert len(parts) == 2 * DEVICES and len(array.addressable_shards) == DEVICES
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, host[parts[shard.device.id]])

    squares = jax.jit(lambda x: (x * x).sum(0), out_shardings=sharding.replicated())(array)
    np.testing.assert_array_equal(squares.addressable_data(0), (host * host).sum(0))
    manual = manual_computation(lambda x: all_reduce(x.sum(0), "model"), sharding, [shape], row)
    np.testing.assert_array_equal(jax.jit(manual)(array).addressable_data(0), host.sum(0))
    joined.leave()


def test_two_processes_run_one_sharded_program() -> None:
    run_together(__name__)
