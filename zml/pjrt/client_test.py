"""The CPU's client, and values put on its devices."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zml.pjrt import cpu, transfer
from zml.pjrt.client import Client, device_attributes


@functools.cache
def client(count: int) -> Client:
    return cpu.open_client(count)


def test_a_client_has_devices_of_its_own() -> None:
    before = jax.devices()
    one, four = client(1), client(4)
    assert [device.id for device in four.devices] == [0, 1, 2, 3]
    assert four.local_devices == four.devices and four.process == 0
    assert not set(one.devices) & set(four.devices)
    assert jax.devices() == before


def test_the_fingerprint_tells_clients_apart_and_is_the_same_each_time() -> None:
    assert client(2).fingerprint == cpu.open_client(2).fingerprint
    assert client(2).fingerprint != client(4).fingerprint
    traits = client(2).traits
    assert (traits["target"], traits["devices"]) == ("cpu", "2 x cpu")
    assert traits["instructions"] == cpu.fingerprint()
    assert client(2).version.startswith("jaxlib ")


def test_attributes_are_those_that_are_there() -> None:
    class Chip:
        coords = (0, 1)
        compute_capability = "9.0"
        core_count = None

    assert device_attributes(Chip()) == {"coords": (0, 1), "compute_capability": "9.0"}
    assert device_attributes(client(1).devices[0]) == {}


SPECS = [
    PartitionSpec(),
    PartitionSpec("x"),
    PartitionSpec(None, "y"),
    PartitionSpec(("y", "x")),
    PartitionSpec("x", "y"),
]


def sharding(spec: PartitionSpec, memory: str | None = None) -> NamedSharding:
    mesh = Mesh(np.array(client(4).devices).reshape(2, 2), ("x", "y"))
    return NamedSharding(mesh, spec, memory_kind=memory)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("memory", [None, "pinned_host"])
def test_each_device_gets_its_part(
    spec: PartitionSpec, zero_copy: bool, memory: str | None
) -> None:
    for host in (np.arange(32.0, dtype=np.float32).reshape(8, 4), np.ones((4, 8), np.int8).T):
        where = sharding(spec, memory)
        array = transfer.put(host, where, zero_copy=zero_copy)
        assert array.sharding == where
        np.testing.assert_array_equal(array, host)
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, host[shard.index])


def aligned(count: int) -> np.ndarray[Any, Any]:
    memory = np.zeros(4 * count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + 4 * count].view(np.float32)


@pytest.mark.parametrize("spec", SPECS[:2], ids=str)
def test_the_value_is_copied_unless_asked_not_to(spec: PartitionSpec) -> None:
    host = aligned(1 << 20)
    copied = transfer.put(host, sharding(spec))
    shared = transfer.put(host, sharding(spec), zero_copy=True)
    host[:] = 1
    assert np.asarray(copied).sum() == 0
    assert np.asarray(shared).sum() == host.size


def test_scalars_and_empty_values() -> None:
    for host in (np.array(3, np.int32), np.zeros((0, 4), np.float32)):
        array = transfer.put(host, sharding(PartitionSpec()))
        assert array.shape == host.shape and array.dtype == host.dtype
        np.testing.assert_array_equal(array, host)
