"""Code on shards: collectives by logical axis against numpy over the whole arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.pjrt import cpu
from zml.shape import REPLICATED, Shape
from zml.sharding import (
    HIGH_BANDWIDTH,
    LOW_BANDWIDTH,
    Geometry,
    LogicalMesh,
    Partitioner,
    PhysicalMesh,
    Placement,
    Sharding,
    ShardingError,
    Strategy,
    find_physical_mesh,
    manual_computation,
    partitioned_by,
)
from zml.sharding.manual import (
    all_gather,
    all_reduce,
    all_to_all,
    axis_index,
    axis_size,
    ppermute,
    reduce_scatter,
)
from zml.tensor import Tensor

LOGICAL = LogicalMesh(model=HIGH_BANDWIDTH, data=LOW_BANDWIDTH)
ROWS = Shape({"m": 8, "n": 12}, "f32", {"m": "model"})
X = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)


@functools.cache
def client(count: int) -> Any:
    return cpu.client(count)


@functools.cache
def folded() -> Sharding:
    """`model` over four devices that are no neighbours, `data` over three."""
    physical = PhysicalMesh.given(
        client(12).devices(),
        bus=(2, Geometry.TREE),
        link_x=(3, Geometry.RING),
        link=(2, Geometry.POINT_TO_POINT),
    )
    return Sharding.of("fold", physical, LOGICAL, Strategy(model=("link", "bus"), data="link_x"))


def run(body: Any, *shapes: Shape, x: np.ndarray = X, jit: bool = True) -> np.ndarray:
    inputs, output = shapes[:-1], shapes[-1]
    some = folded()
    function = manual_computation(body, some, inputs, output)
    return np.asarray(
        (jax.jit(function) if jit else function)(jax.device_put(x, some.replicated()))
    )


WHOLE = ROWS.partitioned(m=REPLICATED)


@pytest.mark.parametrize("choice", list(Partitioner))
def test_collectives(choice: Partitioner) -> None:
    def body(x: jax.Array) -> dict[str, jax.Array]:
        assert x.shape == (2, 12) and axis_size("model") == 4
        return {
            "sum": all_reduce(x, "model"),
            "max": all_reduce(x, "model", "max"),
            "mean": all_reduce(x, "model", "mean"),
            "gather": all_gather(x, "model", 0),
            "scatter": reduce_scatter(x, "model", 1),
            "exchange": all_to_all(x, "model", split=1, concat=0),
            "next": ppermute(x, "model", [(i, (i + 1) % 4) for i in range(4)]),
            "shift": ppermute(x, "model", [(i, i + 1) for i in range(3)]),
        }

    small = Shape({"m": 2, "n": 12}, "f32")
    outputs = {
        **dict.fromkeys(["sum", "max", "mean"], small),
        "gather": WHOLE,
        "scatter": small.partitioned(n="model"),
        "exchange": Shape({"m": 8, "n": 12}, "f32", {"n": "model"}),
        **dict.fromkeys(["next", "shift"], ROWS),
    }
    with partitioned_by(choice):
        some = folded()
        function = jax.jit(manual_computation(body, some, [ROWS], outputs))
        got = function(jax.device_put(X, some.named(ROWS)))
    shards = X.reshape(4, 2, 12)
    expected = {
        "sum": shards.sum(0),
        "max": shards.max(0),
        "mean": shards.mean(0),
        "gather": X,
        "scatter": shards.sum(0),
        "exchange": X,
        "next": np.roll(shards, 1, axis=0).reshape(8, 12),
        "shift": np.concatenate([np.zeros((2, 12)), X[:6]]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_axis_index_agrees_with_the_placement() -> None:
    some = folded()
    shape = Shape({"d": 3, "m": 4}, "i32", {"d": "data", "m": "model"})
    function = manual_computation(
        lambda: jnp.full((1, 1), axis_index(("data", "model"))), some, [], shape
    )
    numbers = jax.jit(function)()
    np.testing.assert_array_equal(numbers, np.arange(12).reshape(3, 4))
    at = {shard.device.id: shard.ranges for shard in Placement.of(some, shape).shards}
    for shard in numbers.addressable_shards:
        (data, _), (model, _) = at[shard.device.id]
        assert int(shard.data[0, 0]) == data * 4 + model


def test_a_sharded_matrix_product_of_tensors() -> None:
    rng = np.random.default_rng(1)
    x = Tensor(rng.normal(size=(6, 8)).astype(np.float32), ["b", "d"])
    w = Tensor(rng.normal(size=(8, 5)).astype(np.float32), ["d", "o"])
    inputs = [x.shape.partitioned(b="data", d="model"), w.shape.partitioned(d="model")]
    output = Shape({"b": 6, "o": 5}, "f32", {"b": "data"})

    def body(x: Tensor, w: Tensor) -> Tensor:
        assert x.shape.dims == (2, 2) and w.shape.dims == (2, 5)
        return all_reduce(x.dot(w, "d"), "model")

    y = jax.jit(manual_computation(body, folded(), inputs, output))(x, w)
    assert y.tags == ("b", "o") and y.shape == output
    np.testing.assert_allclose(y.value, x.value @ w.value, rtol=1e-5, atol=1e-5)
    gathered = manual_computation(
        lambda x: all_gather(all_gather(x, "model", "d"), "data", "b"),
        folded(),
        inputs[:1],
        x.shape,
    )
    np.testing.assert_array_equal(gathered(x).value, x.value)


def test_a_logical_axis_whose_devices_another_one_has_is_of_size_one() -> None:
    """On one bus `model` cuts and `data` does not: a sum over `data` must leave the values alone."""
    some = Sharding.of("cpu", find_physical_mesh(client(4).devices()), LOGICAL)
    shape = Shape({"b": 3, "d": 8}, "f32", {"b": "data", "d": "model"})
    only_data = Shape({"b": 4}, "f32", {"b": "data"})

    def body(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        assert x.shape == (3, 2) and y.shape == (4,)
        assert axis_size("data") == 1 and axis_index("data") == 0
        x = all_gather(reduce_scatter(all_to_all(x, "data", 0, 1), "data", 0), "data", 0)
        return all_reduce(all_reduce(x, "data"), "model"), ppermute(y, "data", [(0, 0)])

    outputs = (Shape({"b": 3, "d": 2}, "f32"), only_data)
    function = manual_computation(body, some, [shape, only_data], outputs)
    x, y = np.arange(24, dtype=np.float32).reshape(3, 8), np.arange(4, dtype=np.float32)
    total, same = jax.jit(function)(*(jax.device_put(v, some.replicated()) for v in (x, y)))
    np.testing.assert_array_equal(total, x.reshape(3, 4, 2).sum(1))
    np.testing.assert_array_equal(same, y)


def test_bad_use_is_refused() -> None:
    with pytest.raises(ShardingError, match="over model outside of a manual computation"):
        all_reduce(jnp.ones(2), "model")
    with pytest.raises(ShardingError, match="no logical axis 'expert'; it has model, data"):
        run(lambda x: all_reduce(x, "expert"), ROWS, WHOLE)
    with pytest.raises(ShardingError, match="names a logical axis twice: model, model"):
        run(lambda x: all_reduce(x, ("model", "model")), ROWS, WHOLE)
    with pytest.raises(ShardingError, match="by 'xor'; expected one of sum, max, min, mean"):
        run(lambda x: all_reduce(x, "model", "xor"), ROWS, WHOLE)  # type: ignore[arg-type]
    with pytest.raises(ShardingError, match=r"axis 0 of a shard \(2, 12\) does not divide by 4"):
        run(lambda x: reduce_scatter(x, "model", 0), ROWS, WHOLE)
    with pytest.raises(
        ShardingError, match=r"targets \[1, 1\]; expected each at most once, from 0"
    ):
        run(lambda x: ppermute(x, "model", [(0, 1), (2, 1)]), ROWS, ROWS)
    with pytest.raises(ShardingError, match="names the tag 'm', but an array has no tags"):
        run(lambda x: all_gather(x, "model", "m"), ROWS, WHOLE)
    with pytest.raises(ShardingError, match=r"dim m=6 .*does not divide by the 4 shards"):
        run(lambda x: x, ROWS.set(m=6).partitioned(m="model"), WHOLE, x=X[:6])


def test_shapes_must_be_those_of_the_arrays() -> None:
    with pytest.raises(ShardingError, match=r"argument\[0\] is \(6, 12\) .*given as \{m=8/model"):
        run(lambda x: x, ROWS, ROWS, x=X[:6])
    with pytest.raises(ShardingError, match=r"result is \(2, 12\) over all shards, but"):
        run(lambda x: all_reduce(x, "model"), ROWS, WHOLE)
    with pytest.raises(ShardingError, match="1 arguments for 2 input shapes"):
        run(lambda x, y: x, ROWS, ROWS, ROWS)


def test_copies_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="out_specs"):
        run(lambda x: x, ROWS, ROWS.set(m=2))
