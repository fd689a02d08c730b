"""Host values and zeros on the devices."""

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from zml.buffer import Buffer, Slice
from zml.errors import BufferError, ShapeError, UsageError
from zml.io import View
from zml.model_tree import model
from zml.platform import CpuOptions, Platform
from zml.shape import REPLICATED, Shape
from zml.sharding import (
    HIGH_BANDWIDTH,
    LOW_BANDWIDTH,
    Geometry,
    LogicalMesh,
    PhysicalMesh,
    Placement,
)
from zml.tensor import Tensor


@pytest.fixture(scope="module")
def platform() -> Platform:
    """Six CPU devices as 2 x 3."""
    platform = Platform.init("cpu", CpuOptions(6))
    mesh = PhysicalMesh.given(
        platform.devices, bus=(2, Geometry.TREE), link=(3, Geometry.POINT_TO_POINT)
    )
    platform.sharding("both", LogicalMesh(model=HIGH_BANDWIDTH, data=LOW_BANDWIDTH), mesh=mesh)
    return platform


@pytest.mark.parametrize(
    "cuts",
    [
        {},
        {"b": "model"},
        {"d": "data"},
        {"b": "data", "d": "model"},
        {"b": REPLICATED, "d": "model"},
    ],
    ids=str,
)
def test_each_device_has_what_the_placement_says(platform: Platform, cuts: Any) -> None:
    shape = Shape({"b": 6, "d": 12}, "f32", cuts)
    host = np.arange(shape.count, dtype=np.float32).reshape(shape.dims)
    buffer = platform.put(host, shape)
    assert buffer.shape == shape
    np.testing.assert_array_equal(buffer.numpy(), host)
    parts = {s.device.id: s.index for s in Placement.of(platform.sharding_for(shape), shape).shards}
    for shard in buffer.array.addressable_shards:
        np.testing.assert_array_equal(shard.data, host[parts[shard.device.id]])


@pytest.mark.parametrize(
    "value, like, shape",
    [
        (True, None, Shape({}, "bool")),
        (3, None, Shape({}, "i32")),
        (2.5, None, Shape({}, "f32")),
        (np.float16(1), None, Shape({}, "f16")),
        ([1, 2], ("s",), Shape({"s": 2}, "i32")),
        ([[1.0], [2.0]], ("s", "d"), Shape({"s": 2, "d": 1}, "f32")),
        ([1, 2], Shape({"s": 2}, "u8"), Shape({"s": 2}, "u8")),
        ([1, 2], Shape({"s": 2}, "bf16"), Shape({"s": 2}, "bf16")),
        (np.ones(2, ml_dtypes.int4), ("s",), Shape({"s": 2}, "i4")),
        (np.ones(2, ">f4"), ("s",), Shape({"s": 2}, "f32")),
        (Slice(np.ones(2, np.int8), ("s",)), None, Shape({"s": 2}, "i8")),
        (
            Slice(np.ones(6, np.int8), ("s",)),
            Shape({"s": 6}, "i8", {"s": "model"}),
            Shape({"s": 6}, "i8", {"s": "model"}),
        ),
    ],
    ids=str,
)
def test_what_can_be_put(platform: Platform, value: Any, like: Any, shape: Shape) -> None:
    buffer = platform.put(value, like)
    assert buffer.shape == shape
    expected = value.data if isinstance(value, Slice) else value
    np.testing.assert_array_equal(buffer.numpy().astype("f4"), np.asarray(expected).astype("f4"))


@pytest.mark.parametrize(
    "value, like, problem",
    [
        (
            np.ones((2, 3)),
            ("s",),
            r"shape \[2, 3\] cannot have the tags \['s'\]; give one tag for each axis",
        ),
        ([1, 2], None, r"shape \[2\] cannot have the tags \[\]"),
        ([1, 2], "s", "expected a list of tags, given the string 's'"),
        (
            [1, 2],
            Shape({"s": 3}, "i32"),
            r"shape \[2\] does not fit \{s=3,i32\}; the dims must be equal",
        ),
        (
            np.ones(2, np.float32),
            Shape({"s": 2}, "bf16"),
            r"element type f32 does not fit \{s=2,bf16\}; convert",
        ),
        (np.ones(2), ("s",), "64-bit types switched off"),
        ([1, 1 << 40], ("s",), "is no array of numbers"),
        ([1, 300], Shape({"s": 2}, "u8"), "is no array of u8"),
        ([[1], [1, 2]], ("s", "t"), "is no array of numbers"),
        (np.array(["x"]), ("s",), "is not an element type"),
        (
            Slice(np.ones(2, np.int8), ("s",)),
            Shape({"d": 2}, "i8"),
            r"Slice\(\{s=2,i8\}\) does not fit the shape \{d=2,i8\}",
        ),
        (Slice(np.ones(2, np.int8), ("s",)), ("s",), "has its tags already"),
        (Shape({"s": 2}, "i8"), ("s",), "expected a value on the host"),
        (Tensor.declare({"s": 2}, "i8"), None, "expected a value on the host"),
    ],
    ids=str,
)
def test_what_cannot_be_put(platform: Platform, value: Any, like: Any, problem: str) -> None:
    with pytest.raises(ShapeError, match=problem):
        platform.put(value, like)


def test_a_tree_of_slices_becomes_a_tree_of_buffers(platform: Platform) -> None:
    tree = {"a": [Slice(np.ones(6, np.float32), ("d",), {"d": "model"}), 3], "b": None}
    put = platform.put_tree(tree)
    assert put["b"] is None and put["a"][1].item() == 3
    assert put["a"][0].shape == Shape({"d": 6}, "f32", {"d": "model"})
    with pytest.raises(
        BufferError, match="no memory of the kind 'disk'; it has device, pinned_host"
    ):
        platform.put_tree(tree, memory="disk")


def test_the_value_is_the_buffer_s_own(platform: Platform) -> None:
    host = np.zeros(1 << 16, np.float32)
    buffer = platform.put(host, ("d",))
    host[:] = 1
    assert buffer.numpy().sum() == 0


def test_memory_kinds(platform: Platform) -> None:
    buffer = platform.put([1.0], ("d",), memory="pinned_host")
    assert (buffer.memory, platform.put(1).memory) == ("pinned_host", "device")
    assert (
        platform.zeros(Shape({"d": 4 << 20}, "f32"), memory="pinned_host").memory == "pinned_host"
    )


@pytest.mark.parametrize("size", [6, 6 << 20])
def test_zeros_for_a_tree(platform: Platform, size: int) -> None:
    shape = Shape({"s": size, "d": 2}, "bf16", {"s": "model"})
    tree = {"k": Tensor.declare(shape), "v": [Tensor.declare({"s": 2}, "i32"), shape]}
    made = platform.zeros(tree)
    assert made["k"].shape == made["v"][1].shape == shape
    assert made["v"][0].shape == Shape({"s": 2}, "i32")
    for buffer in (made["k"], made["v"][0], made["v"][1]):
        assert isinstance(buffer, Buffer) and not buffer.numpy().any()
        assert buffer.array.sharding == platform.sharding_for(buffer.shape).named(
            buffer.shape, "device"
        )


def test_zeros_are_in_the_memory_that_a_tensor_declares(platform: Platform) -> None:
    assert (
        platform.zeros(Tensor.declare({"s": 2}, "i32", memory="pinned_host")).memory
        == "pinned_host"
    )


def test_zeros_of_what_has_no_shape(platform: Platform) -> None:
    with pytest.raises(
        UsageError, match=r"zeros: 3 at \['a'\]\[0\]; expected a Shape, a declared Tensor"
    ):
        platform.zeros({"a": [3]})
    with pytest.raises(ShapeError, match="64-bit types switched off"):
        platform.zeros(Shape({"s": 2}, "f64"))


# Tensors that have a value are put as Slices are: weights that were trained with JAX.


@model
class _Scale:
    weight: Tensor


def test_a_model_with_values_becomes_the_same_model_with_buffers() -> None:
    here = Platform.init("cpu", CpuOptions(2))
    here.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    declared = _Scale(View.blank("f32").tensor("weight", {"d": 4}, d="model"))
    trained = jax.tree.map(lambda spec: np.arange(4, dtype=spec.dtype), declared)
    weights = here.put_tree(trained)
    assert isinstance(weights, _Scale) and weights.weight.shape == declared.weight.shape
    exe = here.compile(lambda scale, x: scale.weight * x, declared, declared.weight)
    assert exe(weights, weights.weight).numpy().tolist() == [0, 1, 4, 9]


def test_a_tensor_without_a_value_is_refused() -> None:
    here = Platform.init("cpu")
    with pytest.raises(ShapeError, match="expected a value on the host"):
        here.put_tree(_Scale(Tensor.declare({"d": 4}, "f32")))
    with pytest.raises(ShapeError, match="expected a value on the host"):
        jax.jit(lambda x: here.put(x).array)(Tensor(np.ones(2, np.float32), ("d",)))
