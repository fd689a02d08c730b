import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml import ops
from zml.errors import ShapeError
from zml.ops._testing import check, draw
from zml.shape import REPLICATED, Shape
from zml.tensor import Tensor


def test_a_tensor_is_an_array_with_names() -> None:
    x = Tensor(np.zeros((2, 3), np.float32), ("s", "d"), {"d": "model"})
    assert str(x) == "Tensor({s=2,d=3/model,f32})"
    assert (x.rank, x.count, x.dim("d"), x.axis("d"), x.dtype) == (2, 6, 3, 1, "f32")
    assert isinstance(x.value, jax.Array)
    assert x.shape == Shape({"s": 2, "d": 3}, "f32", {"d": "model"})
    assert str(x.partitioned(s=REPLICATED)) == "Tensor({s=2/-,d=3/model,f32})"


@pytest.mark.parametrize(
    ("value", "tags", "message"),
    [
        (np.zeros((2, 3), np.float32), ("s",), r"shape \[2, 3\] cannot have the tags \['s'\]"),
        (np.zeros((2, 2), np.float32), ("s", "s"), "'s' comes twice"),
        (np.zeros(2, np.float32), ("1",), "is not a tag"),
        (np.zeros(2, "U1"), ("s",), "not an element type"),
        (np.zeros(2, np.int8), "s", r"given the string 's'; write \('s',\) for one axis"),
        (np.zeros(2), ("s",), "JAX has 64-bit types switched off, and f64"),
        (1.0, (), "given a float, expected an array; take ops.constant"),
        (Shape({}, "f32"), (), "Tensor.declare"),
    ],
)
def test_what_is_no_tagged_array_is_refused(value: Any, tags: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Tensor(value, tags)


def test_a_declared_input_has_a_shape_and_no_value() -> None:
    shape = Shape({"s": 4}, "i32").partitioned(s="data")
    x = Tensor.declare(shape)
    assert x.shape == shape
    assert Tensor.declare({"s": 4}, "i32").tags == ("s",)
    assert Tensor.declare(shape, "u8").dtype == "u8"
    with pytest.raises(ShapeError, match=r"\{s=4/data,i32\} is a declared input without a value"):
        _ = x.value
    with pytest.raises(ShapeError, match="declare: JAX has 64-bit types switched off, and i64"):
        Tensor.declare({"s": 4}, "i64")
    lowered = jax.jit(lambda t: t + 1).lower(x)
    assert lowered.out_info.shape == shape


@pytest.mark.parametrize(
    "child", [None, object(), 3, "s", jax.ShapeDtypeStruct((2,), np.float32), [1]]
)
def test_jax_may_rebuild_a_tensor_around_anything(child: object) -> None:
    x, _ = draw(0, s=2, d=3)
    leaves, treedef = jax.tree.flatten(x)
    assert len(leaves) == 1
    rebuilt = jax.tree.unflatten(treedef, [child])
    assert isinstance(rebuilt, Tensor)
    assert "Tensor(" in repr(rebuilt)


def test_a_pytree_round_trip_keeps_tags_and_partitioning() -> None:
    x = draw(0, s=2, d=3)[0].partitioned(d="model")
    again = jax.tree.map(lambda leaf: leaf, {"x": x})["x"]
    assert again.shape == x.shape
    ((path, _),) = jax.tree_util.tree_flatten_with_path({"x": x})[0]
    assert jax.tree_util.keystr(path) == "['x'].value"
    before: Any = jax.tree.structure(x)
    assert before != jax.tree.structure(x.rename(s="t"))


def test_jit_keeps_tags_and_partitioning_and_traces_once() -> None:
    traces = []

    @jax.jit
    def f(x: Tensor) -> Tensor:
        traces.append(x.shape)
        return x * 2

    x = draw(0, s=2, d=3)[0].partitioned(d="model")
    assert f(x).shape == x.shape
    f(x + 1)
    assert traces == [x.shape]
    f(x.rename(s="t"))
    assert len(traces) == 2


def test_gradients_are_tensors() -> None:
    (x, a), (w, b) = draw(0, s=3, d=4), draw(1, d=4, o=5)

    def loss(w: Tensor) -> Tensor:
        return x.dot(w, "d").tanh().sum()

    expected = a.T @ (1 - np.tanh(a @ b) ** 2)
    check(jax.grad(lambda w: loss(w).value)(w), expected, "d o", "f32")
    check(ops.grad(loss)(w), expected, "d o", "f32")
    value, gradient = jax.jit(ops.value_and_grad(loss))(w)
    check(value, np.tanh(a @ b).sum(), "", "f32")
    check(gradient, expected, "d o", "f32")
    with pytest.raises(ShapeError, match="no float of rank 0"):
        ops.grad(lambda w: w)(w)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vmap_of_jax_takes_the_mapped_tag_away(axis: int) -> None:
    x, a = draw(0, b=2, s=3, d=4)
    rest = [tag for tag in "bsd" if tag != "bsd"[axis]]
    seen = []

    def f(t: Tensor) -> Tensor:
        seen.append(t.tags)
        return t.softmax(rest[1])

    y = jax.vmap(f, in_axes=axis)(x)
    assert seen == [tuple(rest)]
    moved = np.exp(np.moveaxis(a, axis, 0))
    check(
        y.with_first_axis("n"), moved / moved.sum(-1, keepdims=True), " ".join(["n", *rest]), "f32"
    )
    with pytest.raises(ShapeError, match=r"added or took an axis without a tag; use zml.ops.vmap"):
        _ = y + 1


def test_vmap_nests_and_meets_jit_and_grad() -> None:
    x, a = draw(0, b=2, s=3, d=4)
    twice = jax.vmap(jax.vmap(jax.jit(lambda t: t.sum("d"))))(x)
    np.testing.assert_allclose(twice.value, a.sum(-1), rtol=1e-5)
    per_row = jax.vmap(jax.grad(lambda t: (t * t).sum().value))(x)
    np.testing.assert_allclose(per_row.value, 2 * a, rtol=1e-5)
    unmapped = jax.vmap(lambda t, u: t * u, in_axes=(0, None))(x, x.choose(b=0))
    np.testing.assert_allclose(unmapped.value, a * a[0], rtol=1e-5)


def test_vmap_by_tag_names_the_result() -> None:
    (x, a), (w, b) = draw(0, s=3, b=2, d=4), draw(1, d=4)
    y = ops.vmap(lambda t, w: {"y": t.dot(w, "d")}, "b")(x, w)["y"]
    check(y, np.einsum("sbd,d->bs", a, b), "b s", "f32")
    with pytest.raises(ShapeError, match="no argument has the axis 'z'"):
        ops.vmap(lambda t: t, "z")(x)


def test_each_operation_on_a_tensor_is_a_method() -> None:
    functions = {
        "arange",
        "atan2",
        "complex_",
        "concatenate",
        "cond",
        "constant",
        "debug_print",
        "grad",
        "iota",
    }
    functions |= {
        "linspace",
        "ones",
        "optimization_barrier",
        "random",
        "reduce",
        "scan",
        "stack",
        "value_and_grad",
    }
    functions |= {"call", "vmap", "while_", "zeros"}
    for name in ops.__all__:
        assert (name in functions) != (getattr(Tensor, name, None) is getattr(ops, name)), name


def test_the_package_brings_names_in_when_they_are_used() -> None:
    code = """
import sys, zml
assert not {"jax", "numpy"} & set(sys.modules)
print(zml.Shape({"s": 2}, zml.DType.BF16))
assert "jax" not in sys.modules
assert zml.ops.zeros({"s": 2}, "f32").value.shape == (2,) and zml.Tensor
try:
    zml.tensors
except AttributeError as error:
    print(error)
"""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "{s=2,bf16}\nmodule 'zml' has no attribute 'tensors'\n"


def test_operators_leave_foreign_arrays_alone() -> None:
    x: Any = draw(0, s=2, d=3)[0]
    calls: list[Any] = [
        lambda: np.ones((2, 3), np.float32) * x,
        lambda: jnp.ones((2, 3)) + x,
        lambda: x - np.ones((2, 3), np.float32),
        lambda: x + "1",
        lambda: x * [1.0],
    ]
    for call in calls:
        with pytest.raises(ShapeError, match="expected a Tensor; name its axes"):
            call()


def test_equality_is_a_tensor_and_with_other_objects_false() -> None:
    x: Any = draw(0, s=2)[0]
    assert isinstance(x == x, Tensor)
    assert x != None  # noqa: E711
    assert (x == "s") is False
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)
    assert bool((x == x).all())


@pytest.mark.parametrize("copy", [lambda x: pickle.loads(pickle.dumps(x)), jax.device_get])
def test_copies_keep_the_shape(copy: Callable[[Tensor], Tensor]) -> None:
    x = draw(0, s=2, d=3)[0].partitioned(d="model")
    assert copy(x).shape == x.shape
    np.testing.assert_array_equal(np.asarray(copy(x).value), np.asarray(x.value))


def test_partitioning_follows_whole_axes_and_is_never_used_twice() -> None:
    x = draw(0, s=2, d=3)[0].partitioned(s="model")
    w = draw(1, d=3, o=4)[0].partitioned(o="model")
    assert str(x.dot(w, "d").shape) == "{s=2/model,o=4,f32}"
    assert str(x.partitioned(s=REPLICATED).dot(w, "d").shape) == "{s=2/-,o=4/model,f32}"
    assert str(x.slice(s=(0, 1)).shape) == "{s=1,d=3,f32}"
    assert str(draw(2, s=2, d=3)[0].add(x).shape) == "{s=2/model,d=3,f32}"
