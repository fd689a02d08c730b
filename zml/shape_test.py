from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zml.dtypes import DType
from zml.errors import ShapeError
from zml.shape import OPEN, REPLICATED, Shape


@pytest.mark.parametrize("dtype", list(DType))
def test_a_dtype_is_found_by_each_of_its_names(dtype: DType) -> None:
    assert DType.of(dtype.value) is dtype
    assert DType.of(dtype.numpy) is dtype
    assert DType.of(dtype.numpy.name) is dtype
    assert dtype == dtype.value


def test_dtypes_of_numpy_jax_and_ml_dtypes() -> None:
    assert DType.of(np.float32) == "f32"
    assert DType.of(jnp.bfloat16) == "bf16"
    assert DType.of(ml_dtypes.float8_e4m3fn) == "f8e4m3fn"
    assert DType.of(bool) == "bool"
    # To numpy "i8" has eight bytes.
    assert DType.of("i8").numpy == np.int8
    assert [DType.of(name).bits for name in ("bool", "u2", "f4e2m1fn", "f6e3m2fn", "c64")] == [
        8,
        2,
        4,
        6,
        64,
    ]


@pytest.mark.parametrize("name", ["float", "f12", "", "I8", "datetime64", None, 3, str, "object"])
def test_what_is_no_dtype_is_refused(name: Any) -> None:
    if name is None:
        assert DType.of(np.dtype(None)) == "f64"  # numpy's own reading of None
        return
    with pytest.raises(ShapeError, match="not an element type"):
        DType.of(name)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("i4", -8, 7), ("u2", 0, 3), ("i64", -(1 << 63), (1 << 63) - 1)]
)
def test_limits_of_integers(dtype: str, low: int, high: int) -> None:
    assert DType.of(dtype).limits == (low, high)


def test_limits_of_floats_are_finite_only_without_infinities() -> None:
    assert DType.BF16.limits == (-np.inf, np.inf)
    assert tuple(map(float, DType.F8E4M3FN.limits)) == (-448, 448)
    assert tuple(map(float, DType.F4E2M1FN.limits)) == (-6, 6)


def test_a_shape_knows_its_axes() -> None:
    shape = Shape({"s": 16, "d": 4096}, "bf16").partitioned(d="model")
    assert str(shape) == "{s=16,d=4096/model,bf16}"
    assert (shape.rank, shape.count, shape.byte_size) == (2, 65536, 131072)
    assert (shape.dim("d"), shape.axis("d"), shape.partition("d")) == (4096, 1, "model")
    assert "s" in shape
    assert "z" not in shape
    assert str(shape.partitioned(s=REPLICATED, d=OPEN)) == "{s=16/-,d=4096,bf16}"
    assert str(Shape({}, "f32")) == "{f32}"


def test_bytes_of_packed_elements_are_rounded_up() -> None:
    assert Shape({"a": 3}, "i4").byte_size == 2
    assert Shape({"a": 5}, "f6e2m3fn").byte_size == 4
    assert Shape({"a": 0}, "u2").byte_size == 0
    assert Shape({}, "f64").byte_size == 8


def test_shapes_are_values() -> None:
    one, two = (Shape({"a": 1, "b": 2}, dtype) for dtype in ("f32", np.float32))
    assert one == two
    assert len({one, two, one.partitioned(a="x"), one.transpose("b", "a")}) == 3
    with pytest.raises(AttributeError):
        one.dims = (3,)  # type: ignore[misc]


def test_changes_keep_the_partitioning_of_whole_axes() -> None:
    shape = Shape({"s": 16, "d": 8}, "f32", {"s": REPLICATED, "d": "model"})
    assert str(shape.insert(1, b=2)) == "{s=16/-,b=2,d=8/model,f32}"
    assert str(shape.remove("s")) == "{d=8/model,f32}"
    assert str(shape.rename(s="d", d="s")) == "{d=16/-,s=8/model,f32}"
    assert str(shape.set(d=4)) == "{s=16/-,d=4,f32}"
    assert str(shape.transpose("d", ...)) == "{d=8/model,s=16/-,f32}"
    assert str(shape.with_dtype("i8")) == "{s=16/-,d=8/model,i8}"
    assert shape.matches(Shape({"s": 16, "d": 8}, "i4"))


@pytest.mark.parametrize("tag", ["", "1a", "a b", "a-b", 3, None])
def test_tags_are_identifiers(tag: Any) -> None:
    with pytest.raises(ShapeError, match="is not a tag; expected an identifier"):
        Shape({tag: 1}, "f32")


@pytest.mark.parametrize("dim", [-1, 1.5, True, None, "3"])
def test_dims_are_counts(dim: Any) -> None:
    with pytest.raises(ShapeError, match=r"'a' cannot have .* elements"):
        Shape({"a": dim}, "f32")


def test_a_logical_axis_cuts_one_axis() -> None:
    shape = Shape({"a": 4, "b": 4}, "f32", {"a": "model"})
    with pytest.raises(
        ShapeError, match=r"'model' is used twice, for 'a' and 'b' of \{a=4,b=4,f32\}"
    ):
        Shape({"a": 4, "b": 4}, "f32", {"a": "model", "b": "model"})
    with pytest.raises(ShapeError, match="used twice"):
        shape.partitioned(b="model")
    assert str(shape.partitioned(a=OPEN, b="model")) == "{a=4,b=4/model,f32}"


@pytest.mark.parametrize("cut", ["", "two words", 3, None])
def test_partitioning_is_open_replicated_or_a_name(cut: Any) -> None:
    with pytest.raises(ShapeError, match="is not a partitioning of 'a'"):
        Shape({"a": 4}, "f32").partitioned(a=cut)


def test_unknown_and_repeated_tags_name_the_shape() -> None:
    shape = Shape({"s": 2, "d": 3}, "f32")
    for call in (
        lambda: shape.dim("z"),
        lambda: shape.axis("z"),
        lambda: shape.partition("z"),
        lambda: shape.partitioned(z="model"),
        lambda: shape.set(z=1),
        lambda: shape.remove("z"),
        lambda: shape.rename(z="y"),
    ):
        with pytest.raises(
            ShapeError, match=r"\{s=2,d=3,f32\} has no axis 'z'; its tags are \['s', 'd'\]"
        ):
            call()
    with pytest.raises(ShapeError, match="'d' comes twice"):
        shape.rename(s="d")
    with pytest.raises(ShapeError, match="already has an axis 'd'"):
        shape.insert(0, d=1)
    with pytest.raises(ShapeError, match="no position 3; expected 0 to 2"):
        shape.insert(3, b=1)
    for tags in (("s",), ("s", "s"), ("s", "d", "z"), (..., ...)):
        with pytest.raises(ShapeError, match="is not an order of the axes"):
            shape.transpose(*tags)
