"""Two processes with two CPU devices each form one platform."""

import socket

import numpy as np
import pytest

from zml.errors import UnsupportedError
from zml.platform import CpuOptions, DistributedOptions, Platform, PlatformOptions
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LOW_BANDWIDTH, LogicalMesh, Placement
from zml.testing.processes import free_address, run_together

DEVICES = 2


def run_process(process: int, address: str) -> None:
    """What each of the two does; it fails by an exception."""
    distributed = DistributedOptions(address, process, processes=2, hostname="127.0.0.1")
    options = PlatformOptions(cpu=CpuOptions(DEVICES), distributed=distributed)
    with Platform.init("cpu", options) as platform:
        assert platform.device_name == "4 x cpu"
        assert [d.process for d in platform.devices] == [0, 0, 1, 1]
        assert [d.local for d in platform.devices] == [
            d.process == process for d in platform.devices
        ]
        assert len(platform.local_devices) == DEVICES
        assert f"process: {process} of 2" in str(platform)
        assert str(platform).count("not of this process") == DEVICES

        platform.sharding("both", LogicalMesh(model=HIGH_BANDWIDTH, data=LOW_BANDWIDTH))
        host = np.arange(32, dtype=np.float32).reshape(8, 4)
        for cuts in ({}, {"b": "data"}, {"d": "model"}, {"b": "data", "d": "model"}):
            shape = Shape({"b": 8, "d": 4}, "f32", cuts)
            buffer = platform.put(host, shape)
            shards = Placement.of(platform.sharding_for(shape), shape).shards
            parts = {shard.device.id: shard.index for shard in shards}
            assert len(buffer.array.addressable_shards) == DEVICES
            for shard in buffer.array.addressable_shards:
                np.testing.assert_array_equal(shard.data, host[parts[shard.device.id]])
        assert platform.put(7).item() == 7

        large = platform.zeros(Shape({"b": 8 << 20}, "f32", {"b": "data"}))
        assert all(not np.asarray(s.data).any() for s in large.array.addressable_shards)


def test_two_processes_are_one_platform() -> None:
    run_together(__name__)


def test_an_address_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UnsupportedError, match=f"process 0 cannot listen at {address}: Address already in use"
        ):
            Platform.init("cpu", DistributedOptions(address, 0, 2))


def test_a_process_that_is_alone_gives_up() -> None:
    options = DistributedOptions(free_address(), 1, 2, timeout_seconds=1)
    with pytest.raises(
        UnsupportedError,
        match=r"process 1 of 2 looked for process 0 at .* did not meet all of them",
    ):
        Platform.init("cpu", options)
