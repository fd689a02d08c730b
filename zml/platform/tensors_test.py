"""Tensors that have a value are put on a platform as Slices are: weights that were trained with JAX."""

import jax
import numpy as np
import pytest

from zml.errors import ShapeError
from zml.io import View
from zml.model_tree import model
from zml.platform import CpuOptions, Platform
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor


@model
class _Scale:
    weight: Tensor


def test_a_model_with_values_becomes_the_same_model_with_buffers() -> None:
    platform = Platform.init("cpu", CpuOptions(2))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    declared = _Scale(View.blank("f32").tensor("weight", {"d": 4}, d="model"))
    trained = jax.tree.map(lambda spec: np.arange(4, dtype=spec.dtype), declared)
    weights = platform.put_tree(trained)
    assert isinstance(weights, _Scale) and weights.weight.shape == declared.weight.shape
    exe = platform.compile(lambda scale, x: scale.weight * x, declared, declared.weight)
    assert exe(weights, weights.weight).numpy().tolist() == [0, 1, 4, 9]


def test_a_tensor_without_a_value_is_refused() -> None:
    platform = Platform.init("cpu")
    with pytest.raises(ShapeError, match="expected a value on the host"):
        platform.put_tree(_Scale(Tensor.declare({"d": 4}, "f32")))
    with pytest.raises(ShapeError, match="expected a value on the host"):
        jax.jit(lambda x: platform.put(x).array)(Tensor(np.ones(2, np.float32), ("d",)))
