"""Models as data: pytrees, static fields, names of leaves, printing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.buffer import Buffer
from zml.model_tree import byte_size, describe, leaves, model, named_leaves, static
from zml.shape import Shape
from zml.tensor import Tensor


@model
class Linear:
    weight: Tensor
    bias: Tensor | None = None
    eps: float = static(default=1e-6)

    def __call__(self, x: Tensor) -> Tensor:
        return x.dot(self.weight, "d") * self.eps


@model
class Net:
    layers: list[Linear]
    heads: dict[str, Linear]
    pair: tuple[Tensor, Tensor]


def declared(dtype: str = "bf16", **dims: int) -> Tensor:
    return Tensor.declare(dims, dtype)


def net() -> Net:
    weight = declared(o=8, d=4).partitioned(o="model")
    return Net(
        layers=[Linear(weight), Linear(weight), Linear(weight, declared(o=8), eps=2.0)],
        heads={"a": Linear(declared("f32", d=4))},
        pair=(declared(d=2), declared("i4", d=3)),
    )


def test_the_leaves_are_named_as_python_writes_them() -> None:
    assert [name for name, _ in named_leaves(net())] == [
        "layers[0].weight", "layers[1].weight", "layers[2].weight", "layers[2].bias", "heads['a'].weight",
        "pair[0]", "pair[1]",
    ]  # fmt: skip
    assert all(isinstance(leaf, Tensor) for leaf in leaves(net()))
    assert byte_size(net()) == 3 * 64 + 16 + 16 + 4 + 2


def test_static_fields_are_structure() -> None:
    one: Any
    other: Any
    one, other = (
        jax.tree.structure(Linear(declared(d=4))),
        jax.tree.structure(Linear(declared(d=4), eps=2.0)),
    )
    assert one != other
    traced = []

    @jax.jit
    def eps(linear: Linear) -> jax.Array:
        traced.append(linear.eps)
        return linear.weight.value

    x = Tensor(jnp.ones(4), ("d",))
    for value in (1.0, 1.0, 2.0):
        eps(Linear(x, eps=value))
    assert traced == [1.0, 2.0]


def test_jax_transformations_see_the_tensors() -> None:
    weight = np.random.default_rng().standard_normal((8, 4)).astype(np.float32)
    linear = Linear(Tensor(weight, ("o", "d")), eps=0.5)
    x = Tensor(np.ones(4, np.float32), ("d",))
    gradient = jax.grad(lambda m: m(x).sum("o").value)(linear)
    assert isinstance(gradient, Linear) and gradient.eps == 0.5
    np.testing.assert_allclose(gradient.weight.value, np.full((8, 4), 0.5))
    doubled = jax.tree.map(lambda a: 2 * a, linear)
    np.testing.assert_allclose(doubled(x).value, weight.sum(1), rtol=1e-5, atol=1e-6)


def test_a_model_is_frozen_and_replaced_in_parts() -> None:
    linear = Linear(declared(d=4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        linear.eps = 1.0  # type: ignore[misc]
    assert dataclasses.replace(linear, eps=3.0).eps == 3.0


def test_printing_shows_the_tree() -> None:
    assert str(net()) == describe(net())
    assert str(net()).splitlines() == [
        "Net: 113 elements, 230B",
        "├─ layers 208B",
        "│  ├─ [0..1]: Linear(eps=1e-06) 64B each",
        "│  │  └─ weight {o=8/model,d=4,bf16} 64B",
        "│  └─ [2]: Linear(eps=2.0) 80B",
        "│     ├─ weight {o=8/model,d=4,bf16} 64B",
        "│     └─ bias {o=8,bf16} 16B",
        "├─ heads 16B",
        "│  └─ a: Linear(eps=1e-06) 16B",
        "│     └─ weight {d=4,f32} 16B",
        "└─ pair 6B",
        "   ├─ [0] {d=2,bf16} 4B",
        "   └─ [1] {d=3,i4} 2B",
    ]


def test_equal_tensors_of_a_list_share_a_line() -> None:
    vector = declared("f32", d=4)
    assert describe([vector] * 3).splitlines()[1:] == ["└─ [0..2] {d=4,f32} 16B each"]


def test_a_model_of_buffers_prints_and_flattens_alike() -> None:
    def buffer(x: Tensor) -> Buffer:
        return Buffer(jnp.zeros(x.shape.dims, jnp.float32), x.shape.with_dtype("f32"))

    wide = jax.tree.map(
        lambda x: x.shape.with_dtype("f32"), net(), is_leaf=lambda x: isinstance(x, Tensor)
    )
    loaded: Any = jax.tree.map(buffer, net(), is_leaf=lambda x: isinstance(x, Tensor))
    assert str(loaded) == str(wide)
    assert len(jax.tree.leaves(loaded)) == 7
    assert all(isinstance(leaf, Buffer) for leaf in jax.tree.leaves(loaded))


def test_shapes_are_leaves_too() -> None:
    assert byte_size([Shape({"d": 4}, "f32"), {"a": Shape({}, "i8")}]) == 17


def test_a_class_may_print_itself() -> None:
    @model
    class Quiet:
        x: Tensor

        def __repr__(self) -> str:
            return "quiet"

    assert str(Quiet(declared(d=1))) == "quiet"


def test_static_keeps_the_metadata_of_its_user() -> None:
    @model
    class Noted:
        eps: float = static(default=1e-6, metadata={"unit": "none"})

    (field,) = dataclasses.fields(Noted)
    assert field.metadata["unit"] == "none" and not jax.tree.leaves(Noted())
