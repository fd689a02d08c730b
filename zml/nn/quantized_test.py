import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from zml.buffer import Slice
from zml.declared import Quantized, Repeat, Source
from zml.errors import ShapeError
from zml.io.view import View
from zml.kernels.cpu.formats import Format, Packed, dequantize
from zml.kernels.cpu.quantize import quantize
from zml.model_tree import is_leaf, leaves
from zml.nn import Embedding, Linear, Mlp, QuantizedWeight, RmsNorm, project
from zml.platform import CpuOptions, Platform
from zml.shape import REPLICATED, Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor
from zml.testing import fresh

_INT8 = View.blank("f32", quantize="int8")


def _weight(linear: Linear) -> QuantizedWeight:
    assert isinstance(linear.weight, QuantizedWeight)
    return linear.weight


def _filled(linear: Linear, rng: np.random.Generator) -> tuple[Linear, np.ndarray]:
    """The layer with random weights, and those as a matrix of float64."""
    weight = _weight(linear)
    packed = _random(weight, rng)
    values, scales = (
        Tensor(array, like.tags)
        for array, like in zip((packed.values, packed.scales), leaves(weight), strict=True)
    )
    quantized = QuantizedWeight(values, scales, weight.format, weight.all_out, weight.all_inner)
    bias = linear.bias
    if bias is not None:
        bias = Tensor(rng.standard_normal(bias.shape.dims).astype(bias.dtype.numpy), bias.tags)
    return Linear(quantized, bias, linear.inner), dequantize(packed).astype(np.float64)


def _random(weight: QuantizedWeight, rng: np.random.Generator) -> Packed:
    source = weight.values.source
    assert isinstance(source, Source)
    return quantize(rng.standard_normal(source.dims, np.float32), weight.format)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize(
    ("out", "inner"),
    [
        ({"f": 5}, {"d": 33}),
        ({"h": 3, "hd": 5}, {"d": 64}),
        ({"d": 17}, {"h": 3, "hd": 16}),
    ],
)
@pytest.mark.parametrize("rest", [{}, {"b": 2, "s": 3}])
def test_linear_against_float64(
    out: Mapping[str, int],
    inner: Mapping[str, int],
    rest: Mapping[str, int],
    format: Format,
    dtype: str,
) -> None:
    rng = fresh.generator()
    view = View.blank(dtype, quantize=format)
    linear, matrix = _filled(Linear.init(view, out, inner, bias=True), rng)
    dims = {**rest, **inner}
    x = Tensor(rng.standard_normal(tuple(dims.values()), np.float32), tuple(dims)).convert(dtype)
    got = linear(x)
    assert got.tags == (*rest, *out) and got.dtype == dtype
    assert linear.bias is not None
    wide = np.asarray(x.value).astype(np.float64).reshape(-1, matrix.shape[1])
    bias = np.asarray(linear.bias.value).astype(np.float64).reshape(-1)
    expected = (wide @ matrix.T + bias).reshape(got.value.shape)
    # NaN is never equal.
    tolerance = {"f32": 1e-5, "bf16": 2e-2, "f16": 2e-3}[dtype]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        np.asarray(got.value).astype(np.float64),
        expected,
        rtol=tolerance,
        atol=tolerance * scale,
        equal_nan=False,
    )


def test_the_product_may_be_wider_than_its_operands() -> None:
    rng = fresh.generator()
    linear, matrix = _filled(
        Linear.init(View.blank("bf16", quantize="int8"), {"v": 20}, {"d": 32}), rng
    )
    x = Tensor(rng.standard_normal((2, 32), np.float32), ("s", "d")).convert("bf16")
    (got,) = project(x, linear, dtype="f32")
    assert got.dtype == "f32"
    expected = (
        np.asarray(x.value).astype(np.float64) @ matrix.astype(x.dtype.numpy).astype(np.float64).T
    )
    np.testing.assert_allclose(got.value, expected, rtol=1e-4, atol=1e-4, equal_nan=False)


def test_what_is_quantized_and_what_is_not() -> None:
    mlp = Mlp.init(_INT8, 40, 64, "silu", bias=True)
    for linear in (mlp.gate, mlp.up, mlp.down):
        assert _weight(linear).format == "int8"
        assert linear.bias is not None and linear.bias.dtype == "f32"
    assert isinstance(Linear.init(_INT8, {"f": 64}, {"d": 31}).weight, Tensor)
    assert isinstance(Linear.init(_INT8.quantized(None), {"f": 64}, {"d": 64}).weight, Tensor)
    assert Embedding.init(_INT8, 64, 64).weight.dtype == "f32"
    assert RmsNorm.init(_INT8, 64, eps=1e-5).weight.dtype == "f32"


def test_declared_as_the_weight_that_it_stands_for() -> None:
    view = _INT8.over(2).prefix("q_proj")
    q = Linear.init(view, {"h": 4, "hd": 16}, {"d": 48}, h="model")
    weight = _weight(q)
    assert str(weight.values.shape) == "{rows=4/model,groups=2,packed=512,i8}"
    assert str(weight.scales.shape) == "{rows=4/model,groups=2,lanes=16,bf16}"
    assert weight.shape == Shape({"h": 4, "hd": 16, "d": 48}, "bf16", {"h": "model"})
    assert weight.tags == ("h", "hd", "d") and weight.dim("d") == 48
    for x in leaves(weight):
        assert x.source.name == "q_proj.weight" and x.source.dims == (64, 48)


@pytest.mark.parametrize(
    ("out", "inner", "cuts", "shards", "rows", "groups"),
    [
        ({"f": 64}, {"d": 64}, {"f": "model"}, 4, "model", "OPEN"),
        ({"f": 64}, {"d": 64}, {"f": "model"}, 8, "REPLICATED", "OPEN"),  # half blocks
        ({"f": 60}, {"d": 64}, {"f": "model"}, 1, "REPLICATED", "OPEN"),
        ({"d": 64}, {"f": 64}, {"f": "model"}, 2, "OPEN", "model"),
        ({"d": 64}, {"f": 96}, {"f": "model"}, 2, "OPEN", "REPLICATED"),  # a group and a half
        ({"h": 4, "hd": 16}, {"d": 64}, {"h": "model"}, 4, "model", "OPEN"),
        ({"h": 4, "hd": 16}, {"d": 64}, {"hd": "model"}, 4, "REPLICATED", "OPEN"),  # not the first
        ({"d": 64}, {"h": 8, "hd": 16}, {"h": "model", "d": REPLICATED}, 4, "REPLICATED", "model"),
    ],
)
def test_how_it_is_cut(
    out: Mapping[str, int],
    inner: Mapping[str, int],
    cuts: Any,
    shards: int,
    rows: str,
    groups: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "zml"):
        weight = _weight(Linear.init(_INT8.over(shards).prefix("w"), out, inner, **cuts))
    for x in (weight.values, weight.scales):
        found = [x.shape.partition(tag) for tag in ("rows", "groups")]
        assert [getattr(cut, "name", cut) for cut in found] == [rows, groups]
    logged = any("every device has all" in record.getMessage() for record in caplog.records)
    assert logged == ("model" not in (rows, groups))


def test_rows_with_one_scale_are_not_cut_along_what_they_sum_over() -> None:
    view = View.blank("f32", quantize="int8_channel").over(2)
    weight = _weight(Linear.init(view, {"d": 32}, {"f": 64}, f="model"))
    assert weight.values.shape.partition("groups") is REPLICATED


def test_repeated_heads_are_stored_once() -> None:
    k = Linear.init(
        _INT8.over(4), {"h": 4, "hd": 16}, {"d": 32}, bias=True, repeat=Repeat("h", 2), h="model"
    )
    weight = _weight(k)
    assert str(weight.values.shape) == "{rows=4/model,groups=1,packed=512,i8}"
    assert isinstance(weight.values.source, Source)
    assert weight.values.source.dims == (32, 32)
    assert weight.values.source.quantized == Quantized("int8", 2, 16)
    outer = Linear.init(_INT8, {"a": 2, "h": 4, "b": 3}, {"d": 32}, repeat=Repeat("h", 2))
    assert _weight(outer).values.source.quantized == Quantized("int8", 2, 3)  # type: ignore[union-attr]


def test_inputs_that_do_not_fit_are_refused() -> None:
    linear, _ = _filled(Linear.init(_INT8, {"f": 5}, {"d": 32}), fresh.generator())
    with pytest.raises(ShapeError, match=r"already has the axes \['f'\].*\{f=5,d=32,bf16\}"):
        linear(Tensor(np.zeros((2, 32), np.float32), ("f", "d")))
    with pytest.raises(ShapeError, match="no axis 'd'"):
        linear(Tensor(np.zeros((2, 32), np.float32), ("s", "e")))


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("devices", [2, 4])
def test_cut_over_devices_it_gives_what_it_gives_on_one(format: str, devices: int) -> None:
    """4 x 16 rows and 4 groups of f: with four devices d = 96 and f of `odd` are whole everywhere."""
    platform = Platform.init("cpu", CpuOptions(device_count=devices))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    view = View.blank("f32", quantize=format).over(devices)
    layers = [
        Linear.init(view, {"h": 4, "hd": 16}, {"d": 96}, bias=True, h="model"),
        Linear.init(view, {"d": 96}, {"h": 4, "hd": 32}, bias=True, h="model"),
        Linear.init(view, {"f": 40}, {"d": 96}, f="model"),
    ]
    rng = fresh.generator()
    filled = [_filled(layer, rng)[0] for layer in layers]

    def placed(declared: Linear, layer: Linear) -> Any:
        def one(like: Tensor, x: Tensor) -> Slice:
            cuts = dict(zip(like.tags, like.shape.partitions, strict=True))
            return Slice(np.asarray(x.value), x.tags, cuts)

        return jax.tree.map(one, declared, layer, is_leaf=is_leaf)

    for declared, layer in zip(layers, filled, strict=True):
        weight = _weight(layer)
        dims = {"s": 3} | weight.inner
        x = Tensor(rng.standard_normal(tuple(dims.values())).astype(np.float32), tuple(dims))
        exe = platform.compile(Linear.__call__, declared, x.shape)
        values = platform.put_tree((placed(declared, layer), Slice(np.asarray(x.value), x.tags)))
        got = exe(*values)
        assert got.shape.tags == ("s", *weight.out)
        # The native product rounds activations to 16 bits, or 8.
        expected = np.asarray(layer(x).value)
        most = (2e-4 if format == "int8" else 2e-2) * float(np.abs(expected).max())
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=most, equal_nan=False)


def test_a_part_of_a_weight_knows_its_dims() -> None:
    weight = _weight(Linear.init(_INT8, {"h": 4, "hd": 16}, {"f": 128, "g": 2}))

    def part(rows: int, groups: int) -> QuantizedWeight:
        values = Tensor.declare({"rows": rows, "groups": groups, "packed": 512}, "i8")
        return QuantizedWeight(
            values, weight.scales, weight.format, weight.all_out, weight.all_inner
        )

    assert (weight.out, weight.inner) == ({"h": 4, "hd": 16}, {"f": 128, "g": 2})
    assert (part(2, 8).out, part(2, 8).inner) == ({"h": 2, "hd": 16}, {"f": 128, "g": 2})
    assert (part(4, 2).out, part(4, 2).inner) == ({"h": 4, "hd": 16}, {"f": 32, "g": 2})
