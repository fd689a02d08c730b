"""Buffers and slices: values with tags on the devices and on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.buffer import Buffer, Slice
from zml.errors import BufferError, ShapeError
from zml.shape import Shape


def test_a_slice_has_the_arrays_memory_and_tags() -> None:
    array = np.zeros((2, 3), np.float32)
    x = Slice(array, ("s", "d"), {"d": "model"})
    assert str(x) == "Slice({s=2,d=3/model,f32})"
    array[1, 2] = 5
    assert x.data[1, 2] == 5
    assert Slice(np.int32(3)).shape == Shape({}, "i32")


def test_a_slice_needs_a_tag_for_each_axis() -> None:
    with pytest.raises(
        ShapeError, match=r"\[2, 3\] cannot have the tags \['s'\]; give one tag for each axis"
    ):
        Slice(np.zeros((2, 3)), ("s",))
    with pytest.raises(ShapeError, match="'s' comes twice"):
        Slice(np.zeros((2, 3)), ("s", "s"))


def test_a_buffer_comes_back_to_the_host() -> None:
    value = np.random.default_rng().standard_normal((2, 3)).astype(np.float32)
    x = Buffer(jnp.asarray(value), Shape({"s": 2, "d": 3}, "f32", {"d": "model"}))
    assert str(x) == "Buffer({s=2,d=3/model,f32})"
    np.testing.assert_array_equal(x.wait().numpy(), value)
    assert x.slice().shape == x.shape and x.dtype == "f32" and x.memory == "device"
    with pytest.raises(ShapeError, match="has 6 elements, expected 1"):
        x.item()
    assert Buffer(jnp.asarray([7]), Shape({"s": 1}, "i32")).item() == 7


def test_a_donated_buffer_says_so() -> None:
    x = Buffer(jnp.ones(3), Shape({"d": 3}, "f32"))
    x.array.delete()
    assert x.donated and str(x) == "Buffer({d=3,f32}, donated)"
    with pytest.raises(BufferError, match=r"\{d=3,f32\} was donated to a program"):
        x.numpy()


def test_a_buffer_is_a_leaf() -> None:
    x = Buffer(jnp.ones(3), Shape({"d": 3}, "f32"))
    assert jax.tree.leaves({"a": [x, x]}) == [x, x]
