"""Meshes that are given, and printed."""

import pytest

from zml.sharding import Device, Geometry, PhysicalMesh, ShardingError

TREE, P2P, TORUS = Geometry.TREE, Geometry.POINT_TO_POINT, Geometry.TORUS


def devices(count: int) -> list[Device]:
    return [Device(id=i) for i in range(count)]


def test_a_given_mesh_counts_its_last_axis_fastest() -> None:
    mesh = PhysicalMesh.given(devices(6), bus=(2, TREE), link=(3, P2P))
    assert dict(mesh.sizes) == {"bus": 2, "link": 3}
    assert mesh.coordinates(4) == {"bus": 1, "link": 1}
    assert mesh.fastest_first == ("link", "bus")


def test_axes_of_one_device_and_isolated_ones_come_last() -> None:
    mesh = PhysicalMesh.given(
        devices(6), bus=(3, TREE), link_x=(2, TORUS), link_y=(1, TORUS), link=(1, P2P)
    )
    assert mesh.fastest_first == ("link_x", "bus")
    isolated = PhysicalMesh.given(devices(6), bus=(3, TREE), link=(2, Geometry.ISOLATED))
    assert isolated.fastest_first == ("bus", "link")
    assert PhysicalMesh.given(devices(1), bus=(1, TREE)).fastest_first == ("bus",)


def test_a_mesh_prints_as_a_tree() -> None:
    mesh = PhysicalMesh.given(devices(4), bus=(2, TREE), link=(2, P2P))
    assert str(mesh).splitlines() == [
        "PhysicalMesh: 4 devices, bus x2 (tree) > link x2 (point-to-point)",
        "├─ bus 0",
        "│  ├─ link 0: device 0",
        "│  └─ link 1: device 1",
        "└─ bus 1",
        "   ├─ link 0: device 2",
        "   └─ link 1: device 3",
    ]


def test_a_mesh_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ShardingError, match="bus=2 x link=3 has 6 places, but 5 devices"):
        PhysicalMesh.given(devices(5), bus=(2, TREE), link=(3, P2P))
    with pytest.raises(ShardingError, match=r"devices \[1\] come twice"):
        PhysicalMesh.given([Device(1), Device(1)], bus=(2, TREE))
    with pytest.raises(ShardingError, match="'wire' is not a physical axis; expected one of link"):
        PhysicalMesh.given(devices(2), wire=(2, TREE))
    with pytest.raises(ShardingError, match="'bus' has size 0"):
        PhysicalMesh.given([], bus=(0, TREE))
    with pytest.raises(ShardingError, match="expected at least one"):
        PhysicalMesh.given(devices(1))
