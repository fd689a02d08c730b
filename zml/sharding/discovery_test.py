"""Meshes found from devices that are only described."""

import itertools
import random

import pytest

from zml.sharding import Device, Geometry, PhysicalMesh, ShardingError, find_physical_mesh


def ids(mesh: PhysicalMesh) -> list[int]:
    return [device.id for device in mesh.devices]


def gpus(count: int, per_process: int, **fields: object) -> list[Device]:
    return [
        Device(i, "gpu", "H100", process=i // per_process, **fields)  # type: ignore[arg-type]
        for i in range(count)
    ]


def tpus(*grid: int, kind: str, slices: int = 1, cores: int = 1) -> list[Device]:
    """The devices of slices of that grid, numbered with x fastest as the runtime does."""
    places = itertools.product(range(slices), *(range(n) for n in reversed(grid)), range(cores))
    return [
        Device(i, "tpu", kind, slice=place[0], coords=tuple(reversed(place[1:-1])), core=place[-1])
        for i, place in enumerate(places)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 12])
def test_cpu_devices_share_a_bus(count: int) -> None:
    mesh = find_physical_mesh([Device(i) for i in reversed(range(count))])
    assert dict(mesh.sizes) == {"bus": count}
    assert ids(mesh) == list(range(count))


def test_cpu_devices_of_several_processes_are_islands() -> None:
    mesh = find_physical_mesh(
        [Device(2048 * (i // 3) + i % 3, process=i // 3, slice=0) for i in range(6)]
    )
    assert dict(mesh.sizes) == {"bus": 2, "link": 3}


def test_gpus_of_a_process_are_linked_and_processes_share_a_bus() -> None:
    mesh = find_physical_mesh(gpus(6, per_process=3))
    assert [str(axis) for axis in mesh.axes] == ["bus x2 (tree)", "link x3 (point-to-point)"]
    assert dict(find_physical_mesh(gpus(8, per_process=8)).sizes) == {"link": 8}
    assert dict(find_physical_mesh(gpus(4, per_process=1)).sizes) == {"bus": 4}
    assert dict(find_physical_mesh(gpus(1, per_process=1)).sizes) == {"link": 1}


def test_gpus_of_one_slice_are_linked_across_processes() -> None:
    devices = [Device(i, "gpu", process=i, slice=i // 4) for i in range(8)]
    assert dict(find_physical_mesh(devices).sizes) == {"bus": 2, "link": 4}


def test_gpus_of_a_described_topology_are_told_apart_by_their_first_coordinate() -> None:
    devices = [Device(i, "gpu", slice=0, coords=(i // 4, 0, i % 4)) for i in range(8)]
    assert dict(find_physical_mesh(devices).sizes) == {"bus": 2, "link": 4}


def test_known_peers_decide_over_gpu_islands() -> None:
    pairs = [Device(i, "gpu", peers=frozenset({(i + 2) % 4})) for i in range(4)]
    mesh = find_physical_mesh(pairs)
    assert dict(mesh.sizes) == {"bus": 2, "link": 2}
    assert ids(mesh) == [0, 2, 1, 3]
    unlinked = [Device(i, "gpu", peers=frozenset()) for i in range(4)]
    assert dict(find_physical_mesh(unlinked).sizes) == {"bus": 4}


def test_irregular_devices_become_one_bus() -> None:
    uneven = [*gpus(3, per_process=3), Device(3, "gpu", process=1), Device(4, "gpu", process=1)]
    assert dict(find_physical_mesh(uneven).sizes) == {"bus": 5}
    holed = tpus(2, 2, 1, kind="TPU v4")[:3]
    assert dict(find_physical_mesh(holed).sizes) == {"bus": 3}


def test_tpus_are_placed_by_their_coordinates() -> None:
    devices = tpus(2, 4, 1, kind="TPU v5 lite")
    random.Random(0).shuffle(devices)
    mesh = find_physical_mesh(devices)
    assert [str(axis) for axis in mesh.axes] == ["link_x x2 (mesh)", "link_y x4 (mesh)"]
    for leaf, device in enumerate(mesh.devices):
        at = mesh.coordinates(leaf)
        assert device.coords[:2] == (at["link_x"], at["link_y"])


def test_tpu_coordinates_need_not_start_at_zero() -> None:
    part = [d for d in tpus(4, 4, 1, kind="TPU v5 lite") if d.coords[0] > 1 and d.coords[1] == 3]
    assert dict(find_physical_mesh(part).sizes) == {"link_x": 2}


def test_tpu_cores_slices_and_wraparound() -> None:
    mesh = find_physical_mesh(tpus(4, 4, 8, kind="TPU v4", slices=3))
    assert dict(mesh.sizes) == {"bus": 3, "link_x": 4, "link_y": 4, "link_z": 8}
    assert {axis.geometry for axis in mesh.axes[1:]} == {Geometry.TORUS}
    assert find_physical_mesh(tpus(2, 2, 4, kind="TPU v5p")).axes[0].geometry is Geometry.MESH
    flat = find_physical_mesh(tpus(16, 8, 1, kind="TPU v6 lite"))
    assert [axis.geometry for axis in flat.axes] == [Geometry.TORUS, Geometry.MESH]
    assert dict(find_physical_mesh(tpus(2, 2, 1, kind="TPU v3", cores=2)).sizes) == {
        "link_x": 2,
        "link_y": 2,
        "link": 2,
    }
    assert dict(find_physical_mesh(tpus(1, 1, 1, kind="TPU v5 lite")).sizes) == {"link_x": 1}


def test_devices_of_no_or_several_platforms_are_refused() -> None:
    with pytest.raises(ShardingError, match="0 devices of no platform"):
        find_physical_mesh([])
    with pytest.raises(ShardingError, match=r"\['cpu', 'gpu'\]"):
        find_physical_mesh([Device(0), Device(1, "gpu")])
