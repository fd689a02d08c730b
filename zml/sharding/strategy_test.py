"""Logical meshes and strategies, suggested and explicit."""

from typing import Any

import pytest

from zml.sharding import (
    BALANCED,
    HIGH_BANDWIDTH,
    LOW_BANDWIDTH,
    Device,
    Geometry,
    LogicalMesh,
    PhysicalMesh,
    ShardingError,
    Strategy,
)


def physical(**sizes: int) -> PhysicalMesh:
    count = 1
    for size in sizes.values():
        count *= size
    axes = {name: (size, Geometry.MESH) for name, size in sizes.items()}
    return PhysicalMesh.given([Device(id=i) for i in range(count)], **axes)


def test_suggestions_follow_the_intents() -> None:
    mesh = physical(bus=2, link_x=2, link_y=3, link=2)  # fastest first: link, link_x, link_y, bus
    logical = LogicalMesh(
        h0=HIGH_BANDWIDTH,
        b0=BALANCED,
        l0=LOW_BANDWIDTH,
        h1=HIGH_BANDWIDTH,
        b1=BALANCED,
        b2=BALANCED,
        l1=LOW_BANDWIDTH,
    )
    assert {name: axes[0] for name, axes in Strategy.suggest(logical, mesh).bindings} == {
        "h0": "link",
        "h1": "link_x",
        "b0": "link_y",
        "b1": "bus",
        "b2": "link",
        "l0": "bus",
        "l1": "link_y",
    }


def test_suggestions_share_where_there_are_few_axes() -> None:
    logical = LogicalMesh(model=HIGH_BANDWIDTH, expert=BALANCED, data=LOW_BANDWIDTH)
    one = Strategy.suggest(logical, physical(bus=4))
    assert dict(one.bindings) == {"model": ("bus",), "expert": ("bus",), "data": ("bus",)}
    assert str(one) == "Strategy(model=bus, expert=bus, data=bus)"


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"model": ("link", "bus"), "data": "bus"}, "'bus' is bound twice, to 'model' and 'data'"),
        ({"model": ("bus", "bus"), "data": ()}, "'bus' is bound twice, to 'model' and 'model'"),
        ({"model": "bus"}, "does not bind the axis 'data'"),
        ({"model": "bus", "data": (), "expert": "link"}, "binds 'expert', which is no axis"),
        ({"model": "link_z", "data": ()}, "'link_z', which the physical mesh lacks; its axes are"),
    ],
)
def test_explicit_strategies_are_checked(bindings: dict[str, Any], message: str) -> None:
    logical = LogicalMesh(model=HIGH_BANDWIDTH, data=LOW_BANDWIDTH)
    with pytest.raises(ShardingError, match=message):
        Strategy(**bindings).check(logical, physical(bus=2, link=2))


def test_a_logical_mesh_has_names_and_intents() -> None:
    assert str(LogicalMesh(model=HIGH_BANDWIDTH)) == "LogicalMesh(model=high_bandwidth)"
    with pytest.raises(ShardingError, match="sizes come from the devices"):
        LogicalMesh(model=4)  # type: ignore[arg-type]
    with pytest.raises(ShardingError, match="'bus' has the name of a physical axis"):
        LogicalMesh(bus=HIGH_BANDWIDTH)
    with pytest.raises(ShardingError, match="without axes"):
        LogicalMesh()
