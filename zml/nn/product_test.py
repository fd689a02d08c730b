"""Layers through native kernels and through XLA, on one device and on several, give the same."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from zml.dtypes import DType
from zml.io.view import View
from zml.kernels.cpu import library
from zml.model_tree import is_leaf, leaves, model
from zml.nn import Linear, Mlp, project
from zml.platform import CpuOptions, Platform
from zml.shape import REPLICATED, AxisPartition
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor

pytestmark = pytest.mark.skipif(not library.available(), reason="the native library is not here")
_TOLERANCE = {"f32": 1e-5, "bf16": 3e-2, "f16": 4e-3}


@model
class _Layers:
    """Three layers of one input, one back, and an MLP."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    mlp: Mlp

    @staticmethod
    def init(dtype: str, cut: AxisPartition, bias: bool, activation: str) -> "_Layers":
        view = View.blank(dtype)
        d, heads = {"d": 24}, {"h": 6, "hd": 8}
        return _Layers(
            q=Linear.init(view.prefix("q"), heads, d, bias=bias, h=cut),
            k=Linear.init(view.prefix("k"), heads, d, bias=bias, h=cut),
            v=Linear.init(view.prefix("v"), heads, d, h=cut),
            o=Linear.init(view.prefix("o"), d, heads, bias=bias, h=cut),
            mlp=Mlp.init(view.prefix("mlp"), 24, 36, activation, bias=bias, partition=cut),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = project(x, self.q, self.k, self.v)
        (wide,) = project(x, self.q, dtype="f32")
        return q, k, v, self.o(q), self.mlp(x), wide


def _run(platform: Platform, layers: _Layers, values: list[Any], x: Any) -> list[Any]:
    sharding = platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    declared, tree = jax.tree.flatten(layers, is_leaf=is_leaf)
    buffers = [
        platform.put(value, leaf.shape, sharding=sharding)
        for value, leaf in zip(values, declared, strict=True)
    ]
    tokens = Tensor.declare({"s": x.shape[0], "d": 24}, DType.of(x.dtype))
    exe = platform.compile(_Layers.forward, layers, tokens, shardings=[sharding])
    weights = jax.tree.unflatten(tree, buffers)
    results = exe(weights, platform.put(x, ("s", "d"), sharding=sharding))
    assert ("zml_cpu_linear" in exe.stablehlo) == platform.has_kernels
    return [result.numpy().astype(np.float64) for result in results]


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "rows", "bias", "activation", "cut"),
    [
        ("f32", 1, True, "silu", "model"),
        ("bf16", 1, False, "gelu_pytorch_tanh", "model"),
        ("bf16", 21, True, "silu", "model"),
        ("f16", 5, False, "relu", REPLICATED),
        ("f32", 18, False, "tanh", "model"),
    ],
)
def test_kernels_and_xla_agree(
    devices: int, dtype: str, rows: int, bias: bool, activation: str, cut: AxisPartition
) -> None:
    rng = np.random.default_rng()
    numpy = DType.of(dtype).numpy
    layers = _Layers.init(dtype, cut, bias, activation)
    values = [(0.3 * rng.standard_normal(leaf.shape.dims)).astype(numpy) for leaf in leaves(layers)]
    x = rng.standard_normal((rows, 24)).astype(numpy)
    native = _run(Platform.init("cpu", CpuOptions(devices)), layers, values, x)
    plain = dataclasses.replace(Platform.init("cpu", CpuOptions(devices)), kernels=None)
    expected = _run(plain, layers, values, x)
    for got, wanted in zip(native, expected, strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(
            got, wanted, rtol=0, atol=_TOLERANCE[dtype] * scale, equal_nan=False
        )
