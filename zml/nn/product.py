"""How the products of linear layers are computed: by native kernels where the platform has them, else by XLA.

A kernel is an opaque call to the compiler, which cannot cut it over devices. On several, each runs it on its own
shards, which are cut as the weights are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from zml.dtypes import DType
from zml.kernels.cpu.formats import Packed
from zml.model_tree import is_leaf
from zml.nn.quantized import QuantizedWeight
from zml.ops import memory
from zml.shape import REPLICATED, Shape
from zml.sharding import manual, manual_computation
from zml.tensor import Tensor

if TYPE_CHECKING:
    from zml.nn.linear import Linear


def products(x: Tensor, layers: Sequence[Linear], dtype: DType | None = None) -> tuple[Tensor, ...]:
    """The results {.., out} of layers that sum over the same axes of x {.., inner}, in `dtype` or the type of x."""
    if not _native(x, layers):
        return tuple(_by_xla(x, layer, dtype) for layer in layers)

    def compute(x: Tensor, *layers: Linear, dtype: DType | None = dtype) -> tuple[Tensor, ...]:
        from zml.kernels.cpu import linear

        results = linear.linear(
            _rows(x, layers[0].inner),
            [_matrix(layer) for layer in layers],
            [_bias(layer) for layer in layers],
            dtype=None if dtype is None else dtype.numpy,
        )
        return tuple(_tagged(x, layer, y) for layer, y in zip(layers, results, strict=True))

    return _on_shards(compute, x, layers, dtype)


def gated_product(x: Tensor, gate: Linear, up: Linear, activation: str) -> Tensor | None:
    """activation(gate(x)) * up(x) {.., out} in one call, or None where there is no kernel for it."""
    if not _native(x, (gate, up)):
        return None
    from zml.kernels.cpu import linear

    if activation not in linear.ACTIVATIONS:
        return None

    def compute(x: Tensor, gate: Linear, up: Linear) -> tuple[Tensor, ...]:
        matrices = _matrix(gate), _matrix(up)
        y = linear.gated(_rows(x, gate.inner), *matrices, activation, [_bias(gate), _bias(up)])
        return (_tagged(x, gate, y),)

    if any(isinstance(gate.weight.shape.partition(tag), str) for tag in gate.inner):
        return None  # what each device has is a part of the sums, which the activation must not see
    return _on_shards(compute, x, (gate, up), None, results=1)[0]


def _by_xla(x: Tensor, layer: Linear, dtype: DType | None) -> Tensor:
    weight = layer.weight
    if isinstance(weight, QuantizedWeight):
        weight = weight.dense(x.dtype)
    y = x.dot(weight, *layer.inner, dtype=dtype)
    # Said here, since XLA would else cut the result as what follows wants it, and gather the weights for that.
    cuts = {tag: weight.shape.partition(tag) for tag in layer.out}
    y = y.partitioned(**{t: c if isinstance(c, str) else REPLICATED for t, c in cuts.items()})
    return y if layer.bias is None else y + layer.bias.convert(y.dtype).broadcast(y.shape)


def _native(x: Tensor, layers: Sequence[Linear]) -> bool:
    """Whether a native kernel can do it."""
    scope = memory.marks.get()
    if scope is None or not scope.kernels:
        return False
    from zml.kernels.cpu import linear

    inner = layers[0].inner
    return all(
        layer.inner == inner
        # Stored row-major: the results' axes, then those summed over.
        and layer.weight.tags[-len(inner) :] == inner
        and all(tag in x.tags and x.dim(tag) == layer.weight.dim(tag) for tag in inner)
        and linear.supports(x.dtype.numpy, _element(layer))
        and (isinstance(layer.weight, QuantizedWeight) or x.dtype == layer.weight.dtype)
        for layer in layers
    )


def _on_shards(
    compute: Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    layers: Sequence[Linear],
    dtype: DType | None,
    results: int | None = None,
) -> tuple[Tensor, ...]:
    """compute(x, *layers), on several devices on the shards of each: results like those of the first layers."""
    scope = memory.marks.get()
    assert scope is not None
    sharding = scope.sharding(layers[0].weight.shape)
    if sharding is None:
        return compute(x, *layers)
    inner, weight = layers[0].inner, layers[0].weight.shape
    summed = [cut for tag in inner if isinstance(cut := weight.partition(tag), str)]
    rest = [tag for tag in x.tags if tag not in inner]

    def body(x: Tensor, *layers: Linear) -> tuple[Tensor, ...]:
        if not summed:
            return compute(x, *layers)
        # Parts of sums are added as float32; the bias once, afterwards.
        bare = [layer.without_bias() for layer in layers]
        wide = compute(x, *bare, dtype=DType.F32)
        result = DType.of(dtype or x.dtype)
        ys = [manual.all_reduce(y, summed) for y in wide]
        return tuple(
            (
                y if layer.bias is None else y + layer.bias.convert(y.dtype).broadcast(y.shape)
            ).convert(result)
            for y, layer in zip(ys, layers, strict=True)
        )

    given = x.shape.partitioned(
        **dict.fromkeys(rest, REPLICATED), **{tag: weight.partition(tag) for tag in inner}
    )
    outputs = []
    for layer in layers[:results]:
        out = layer.weight.shape
        dims = {tag: x.dim(tag) for tag in rest} | {tag: out.dim(tag) for tag in layer.out}
        cuts = {tag: out.partition(tag) for tag in layer.out}
        outputs.append(Shape(dims, dtype or x.dtype, cuts))
    shapes = [jax.tree.map(lambda leaf: leaf.shape, layer, is_leaf=is_leaf) for layer in layers]
    run = manual_computation(body, sharding, [given, *shapes], tuple(outputs), check=False)
    found: tuple[Tensor, ...] = run(x, *layers)
    return found


def _rows(x: Tensor, inner: Sequence[str]) -> jax.Array:
    """x as a matrix: a row for each token, the axes that are summed over as columns, in the order of the weight's."""
    rest = [tag for tag in x.tags if tag not in inner]
    columns = math.prod(x.dim(tag) for tag in inner)
    return x.transpose(*rest, *inner).value.reshape(-1, columns)


def _matrix(layer: Linear) -> jax.Array | Packed:
    if isinstance(layer.weight, QuantizedWeight):
        return layer.weight.packed
    columns = math.prod(layer.weight.dim(tag) for tag in layer.inner)
    return layer.weight.value.reshape(-1, columns)


def _bias(layer: Linear) -> jax.Array | None:
    return None if layer.bias is None else layer.bias.value.reshape(-1)


def _element(layer: Linear) -> Any:
    weight = layer.weight
    return weight.format if isinstance(weight, QuantizedWeight) else weight.dtype.numpy


def _tagged(x: Tensor, layer: Linear, y: jax.Array) -> Tensor:
    rest = [tag for tag in x.tags if tag not in layer.inner]
    dims = [x.dim(tag) for tag in rest] + [layer.weight.dim(tag) for tag in layer.out]
    cuts = layer.weight.shape
    shape = Shape(dict(zip(layer.out, dims[len(rest) :], strict=True)), y.dtype)
    shape = shape.partitioned(**{tag: cuts.partition(tag) for tag in layer.out})
    return x.derive(y.reshape(dims), (*rest, *layer.out), Tensor.declare(shape))
