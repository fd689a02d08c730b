"""What a sharding tells JAX, and what it refuses."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from zml.pjrt import cpu
from zml.shape import REPLICATED, Shape
from zml.sharding import (
    HIGH_BANDWIDTH,
    LOW_BANDWIDTH,
    Device,
    Geometry,
    LogicalMesh,
    PhysicalMesh,
    Sharding,
    ShardingError,
    Strategy,
    check_together,
    find_physical_mesh,
    select,
)

LOGICAL = LogicalMesh(model=HIGH_BANDWIDTH, data=LOW_BANDWIDTH)


@functools.cache
def client(count: int) -> Any:
    return cpu.client(count)


def sharding(logical: LogicalMesh = LOGICAL, name: str = "test", **bindings: Any) -> Sharding:
    """Twelve CPU devices as bus=2 x link_x=3 x link=2."""
    physical = PhysicalMesh.given(
        client(12).devices(),
        bus=(2, Geometry.TREE),
        link_x=(3, Geometry.RING),
        link=(2, Geometry.POINT_TO_POINT),
    )
    return Sharding.of(name, physical, logical, Strategy(**bindings) if bindings else None)


def ids(some: Sharding) -> list[int]:
    return [device.id for device in some.mesh.devices.flat]


def test_logical_axes_are_axes_of_the_jax_mesh() -> None:
    some = sharding(model=("link_x", "link"), data="bus")
    assert dict(some.mesh.shape) == {"data": 2, "model": 6}
    assert ids(some) == list(range(12))
    suggested = sharding()
    assert dict(suggested.mesh.shape) == {"data": 2, "link_x": 3, "model": 2}


def test_a_fold_of_distant_axes_puts_the_devices_in_its_order() -> None:
    some = sharding(model=("link", "bus"), data=())
    assert dict(some.mesh.shape) == {"model": 4, "link_x": 3}
    # Device bus*6 + link_x*2 + link is in part link*2 + bus of `model`.
    assert some.mesh.devices.tolist() == [
        [client(12).devices()[bus * 6 + x * 2 + link] for x in range(3)]
        for link in range(2)
        for bus in range(2)
    ]
    assert "devices in the order of the fold: 0, 2, 4, 6, 8, 10, 1, 3" in str(some)


def test_specs_follow_the_partitioning() -> None:
    some = sharding()
    shape = Shape({"b": 4, "s": 3, "d": 8}, "f32", {"b": "data", "d": "model", "s": REPLICATED})
    assert some.spec(shape) == P("data", None, "model")
    opened = shape.partitioned(s="model", d=REPLICATED).remove("s").insert(2, s=3)
    assert some.spec(opened, open_free=True) == P("data", None, P.UNCONSTRAINED)
    assert some.named(shape, memory_kind="pinned_host").memory_kind == "pinned_host"
    assert some.spec(Shape({}, "f32")) == P()
    assert some.replicated().is_fully_replicated


def test_axes_that_cut_nothing_are_whole() -> None:
    some = sharding(model="link", data=())
    shape = Shape({"b": 5, "d": 4}, "f32", {"b": "data", "d": "model"})
    assert some.spec(shape) == P(None, "model")
    one = Sharding.of("one", find_physical_mesh(client(1).devices()), LOGICAL)
    assert one.spec(shape) == P(None, None)
    assert one.size("model") == one.size("data") == 1


def test_the_first_of_logical_axes_that_share_cuts() -> None:
    some = Sharding.of("cpu", find_physical_mesh(client(3).devices()), LOGICAL)
    assert "data (low_bandwidth): bus, 3 shards, shared with model" in str(some)
    shape = Shape({"b": 5, "d": 6}, "f32", {"b": "data", "d": "model"})
    assert some.spec(shape) == P(None, "model")
    assert some.spec(shape.set(b=6).partitioned(d=REPLICATED, b="data")) == P("model", None)


def test_constraints_hold_inside_a_program() -> None:
    some = sharding(model=("link", "bus"), data=())
    shape = Shape({"b": 2, "d": 8}, "f32", {"b": REPLICATED, "d": "model"})

    @jax.jit
    def double(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x * 2, some.constraint(shape))

    y = double(jax.device_put(jnp.ones((2, 8)), some.replicated()))
    assert y.sharding.is_equivalent_to(some.named(shape), 2)


def test_dims_that_do_not_divide_are_refused() -> None:
    shape = Shape({"b": 4, "h": 8}, "f32", {"b": "data", "h": "model"})
    message = (
        r"the dim h=8 of \{b=4/data,h=8/model,f32\} does not divide by the 3 shards of its logical axis 'model' "
        r"\(link_x\) in sharding 'test'; make it a multiple of 3"
    )
    with pytest.raises(ShardingError, match=message):
        sharding(model="link_x", data="bus").named(shape)


def test_unknown_logical_axes_are_refused() -> None:
    shape = Shape({"e": 4}, "f32", {"e": "expert"})
    some = sharding(name="llm")
    with pytest.raises(
        ShardingError, match="'llm' has no logical axis 'expert'; it has model, data"
    ):
        some.spec(shape)
    with pytest.raises(ShardingError, match=r"no sharding has all .*'llm' has model, data"):
        select([some], shape)
    experts = sharding(LogicalMesh(expert=HIGH_BANDWIDTH))
    assert select([some, experts], shape) is experts
    assert select([some, experts], Shape({"e": 4}, "f32")) is some


def test_shardings_of_one_program_need_one_order_of_devices() -> None:
    plain, fold = sharding(name="plain"), sharding(name="fold", model=("link", "bus"), data=())
    check_together([plain, sharding(name="other", model="bus", data="link")])
    with pytest.raises(ShardingError, match=r"'plain' and 'fold' .* order 0, 1, .* and 0, 2, 4"):
        check_together([plain, fold])
    twins = [find_physical_mesh(cpu.client(2).devices()) for _ in range(2)]
    with pytest.raises(ShardingError, match=r"'a' and 'b' .* not of the same devices"):
        check_together([Sharding.of(n, m, LOGICAL) for n, m in zip("ab", twins, strict=True)])


def test_described_devices_hold_nothing() -> None:
    some = Sharding.of("far", find_physical_mesh([Device(0, "tpu", coords=(0, 0, 0))]), LOGICAL)
    with pytest.raises(
        ShardingError, match=r"device 0 at \(0, 0, 0\) of sharding 'far' is only described"
    ):
        some.replicated()
