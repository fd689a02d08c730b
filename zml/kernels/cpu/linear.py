"""Linear layers by the native library: y = x W^T + bias of dense and quantized weights, and activation(gate) * up.

On plain JAX arrays, within `jax.jit` or without. Weights that share x are computed in one call, which reads each weight
once, where it is. There are gradients, computed by XLA, and `jax.vmap` over x alone adds rows to it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from zml.kernels.cpu import library
from zml.kernels.cpu.formats import Format, Packed, dequantize

type Weight = jax.Array | Packed
"""A weight [rows, columns]: dense of f32, bf16 or f16, or quantized."""

ACTIVATIONS: Mapping[str, int] = MappingProxyType(
    {
        "silu": 1,
        "swish": 1,
        "gelu": 2,
        "gelu_python": 2,
        "gelu_fast": 3,
        "gelu_new": 3,
        "gelu_pytorch_tanh": 3,
        "quick_gelu": 4,
        "relu": 5,
        "relu2": 6,
        "sigmoid": 7,
    }
)
"""The activations of `gated`, by the names of config.json, and what the library calls them."""

_REFERENCES: tuple[Callable[[jax.Array], jax.Array], ...] = (
    lambda x: x,
    jax.nn.silu,
    functools.partial(jax.nn.gelu, approximate=False),
    functools.partial(jax.nn.gelu, approximate=True),
    lambda x: x * jax.nn.sigmoid(1.702 * x),
    jax.nn.relu,
    lambda x: jnp.square(jax.nn.relu(x)),
    jax.nn.sigmoid,
)
_FLOATS = frozenset(np.dtype(dtype) for dtype in (jnp.float32, jnp.bfloat16, jnp.float16))
_MOST = 3  # weights a call


def _flatten(packed: Packed) -> tuple[tuple[Any, Any], tuple[int, int, Format]]:
    return (packed.values, packed.scales), (packed.rows, packed.columns, packed.format)


def _unflatten(static: tuple[int, int, Format], children: Sequence[Any]) -> Packed:
    # Without the checks: the leaves may be anything, while JAX maps over them.
    packed = object.__new__(Packed)
    names = ("values", "scales", "rows", "columns", "format")
    for name, value in zip(names, (*children, *static), strict=True):
        object.__setattr__(packed, name, value)
    return packed


jax.tree_util.register_pytree_node(Packed, _flatten, _unflatten)


def supports(x: Any, weight: Any) -> bool:
    """Whether there are kernels for x and a dense weight of these element types, or for a quantized one's Format."""
    return np.dtype(x) in _FLOATS and (isinstance(weight, Format) or np.dtype(weight) in _FLOATS)


def linear(
    x: jax.Array,
    weights: Sequence[Weight],
    biases: Sequence[jax.Array | None] | None = None,
    *,
    dtype: Any = None,
) -> tuple[jax.Array, ...]:
    """x [M, columns] times each weight [rows, columns], plus its bias [rows]: results [M, rows].

    Sums are float32, and rounded once, to `dtype`, by default that of x. x is never rounded to a dense weight's type;
    for a quantized weight it is rounded to 16 bits (int4 and few rows: to 8), with a scale for each 32 columns; or int4
    to bf16, where x is bf16, the rows are many, and the processor multiplies bf16. Where there is no library, or no
    kernel for the types, XLA computes it. Raises ValueError for dims that do not fit.
    """
    biases = _checked(x, weights, biases)
    dtype = np.dtype(x.dtype if dtype is None else dtype)
    results: list[jax.Array] = []
    pairs = zip(weights, biases, strict=True)
    for _, group in itertools.groupby(pairs, key=lambda pair: _kind(pair[0])):
        alike = list(group)
        for first in range(0, len(alike), _MOST):
            ws, bs = zip(*alike[first : first + _MOST], strict=True)
            results += _products(_Call(dtype, 0), x, ws, bs)
    return tuple(results)


def gated(
    x: jax.Array,
    gate: Weight,
    up: Weight,
    activation: str,
    biases: Sequence[jax.Array | None] | None = None,
    *,
    dtype: Any = None,
) -> jax.Array:
    """activation(x gate^T) * (x up^T) [M, rows] of x [M, columns] and two weights [rows, columns], in one call.

    Biases [rows] of both are added before. Nothing is rounded but the result, to `dtype`, by default that of x. Raises
    ValueError for dims that do not fit, and for an activation that is not in ACTIVATIONS.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"gated: there is no activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        )
    biases = _checked(x, (gate, up), biases)
    if _rows(gate) != _rows(up):
        raise ValueError(f"gated: the weights have {_rows(gate)} and {_rows(up)} rows")
    call = _Call(np.dtype(x.dtype if dtype is None else dtype), ACTIVATIONS[activation])
    return _products(call, x, (gate, up), tuple(biases))[0]


def reference_linear(
    x: jax.Array,
    weights: Sequence[Weight],
    biases: Sequence[jax.Array | None] | None = None,
    *,
    dtype: Any = None,
) -> tuple[jax.Array, ...]:
    """What `linear` is, by XLA alone, in float32."""
    biases = _checked(x, weights, biases)
    call = _Call(np.dtype(x.dtype if dtype is None else dtype), 0)
    return _by_xla(call, x, tuple(weights), tuple(biases))


def reference_gated(
    x: jax.Array,
    gate: Weight,
    up: Weight,
    activation: str,
    biases: Sequence[jax.Array | None] | None = None,
    *,
    dtype: Any = None,
) -> jax.Array:
    """What `gated` is, by XLA alone, in float32."""
    biases = _checked(x, (gate, up), biases)
    call = _Call(np.dtype(x.dtype if dtype is None else dtype), ACTIVATIONS[activation])
    return _by_xla(call, x, (gate, up), tuple(biases))[0]


@dataclass(frozen=True)
class _Call:
    dtype: np.dtype[Any]
    activation: int


def _rows(weight: Weight) -> int:
    return weight.rows if isinstance(weight, Packed) else weight.shape[0]


def _columns(weight: Weight) -> int:
    return weight.columns if isinstance(weight, Packed) else weight.shape[1]


def _kind(weight: Weight) -> Any:
    """What all weights of a call have in common."""
    return weight.format if isinstance(weight, Packed) else np.dtype(weight.dtype)


def _checked(
    x: jax.Array, weights: Sequence[Weight], biases: Sequence[jax.Array | None] | None
) -> Sequence[jax.Array | None]:
    """The biases, one for each weight."""
    if biases is None:
        biases = [None] * len(weights)
    if len(biases) != len(weights):
        raise ValueError(f"linear: given {len(weights)} weights and {len(biases)} biases")
    for weight, bias in zip(weights, biases, strict=True):
        if not isinstance(weight, Packed) and weight.ndim != 2:
            raise ValueError(
                f"linear: a weight is [rows, columns]; given {weight.dtype}{list(weight.shape)}"
            )
        rows, columns = _rows(weight), _columns(weight)
        if x.ndim != 2 or x.shape[1] != columns:
            raise ValueError(
                f"linear: x of a weight [{rows}, {columns}] is [M, {columns}]; given {list(x.shape)}"
            )
        if bias is not None and bias.shape != (rows,):
            raise ValueError(
                f"linear: the bias of a weight [{rows}, {columns}] is [{rows}]; given {list(bias.shape)}"
            )
    return biases


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _products(
    call: _Call, x: jax.Array, weights: tuple[Weight, ...], biases: tuple[jax.Array | None, ...]
) -> tuple[jax.Array, ...]:
    alike = all(_kind(weight) == _kind(weights[0]) for weight in weights)
    known = supports(x.dtype, _kind(weights[0])) and call.dtype in _FLOATS
    if alike and known and library.available():
        return _native(call, x, weights, biases)
    return _by_xla(call, x, weights, biases)


@functools.partial(_products.defjvp, symbolic_zeros=True)
def _products_jvp(call: _Call, primals: Any, tangents: Any) -> Any:
    """Tangents by XLA: of its own program for the same, whose results are then not used and not computed."""
    leaves, tree = jax.tree.flatten(primals)
    directions = jax.tree.leaves(tangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
    varying = [i for i, along in enumerate(directions) if not isinstance(along, SymbolicZero)]

    def of_varying(*values: jax.Array) -> tuple[jax.Array, ...]:
        filled = list(leaves)
        for i, value in zip(varying, values, strict=True):
            filled[i] = value
        return _by_xla(call, *jax.tree.unflatten(tree, filled))

    at = [leaves[i] for i in varying]
    _, tangent = jax.jvp(of_varying, at, [directions[i] for i in varying])
    return _products(call, *primals), tangent


def _by_xla(
    call: _Call, x: jax.Array, weights: tuple[Weight, ...], biases: tuple[jax.Array | None, ...]
) -> tuple[jax.Array, ...]:
    sums = []
    for weight, bias in zip(weights, biases, strict=True):
        dense = dequantize(weight) if isinstance(weight, Packed) else weight
        y = jax.lax.dot_general(
            x.astype(jnp.float32),
            dense.astype(jnp.float32),
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
        )
        sums.append(y if bias is None else y + bias.astype(jnp.float32))
    if call.activation:
        sums = [_REFERENCES[call.activation](sums[0]) * sums[1]]
    return tuple(y.astype(call.dtype) for y in sums)


def _native(
    call: _Call, x: jax.Array, weights: tuple[Weight, ...], biases: tuple[jax.Array | None, ...]
) -> tuple[jax.Array, ...]:
    given = [bias for bias in biases if bias is not None]
    types = {np.dtype(bias.dtype) for bias in given}
    if len(types) > 1 or not types <= _FLOATS:
        given = [bias.astype(jnp.float32) for bias in given]
    kind = _kind(weights[0])
    rows = [_rows(weight) for weight in weights[: 1 if call.activation else None]]

    @custom_vmap
    def run(x: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        results = [jax.ShapeDtypeStruct((x.shape[0], n), call.dtype) for n in rows]
        run = jax.ffi.ffi_call("zml_cpu_linear", results)
        found: Sequence[jax.Array] = run(
            x,
            *arrays,
            count=np.int32(len(weights)),
            format=np.int32(kind.code if isinstance(kind, Format) else 0),
            biases=np.int32(sum((bias is not None) << i for i, bias in enumerate(biases))),
            activation=np.int32(call.activation),
        )
        return tuple(found)

    @run.def_vmap
    def run_batched(size: int, batched: Sequence[bool], x: jax.Array, *arrays: jax.Array) -> Any:
        if batched[0] and not any(batched[1:]):
            # More rows: the weights are read once.
            results = run(x.reshape(-1, x.shape[-1]), *arrays)
            folded = tuple(y.reshape(size, -1, y.shape[-1]) for y in results)
            return folded, (True,) * len(rows)
        every = [
            array if of_batch else jnp.broadcast_to(array, (size, *array.shape))
            for array, of_batch in zip((x, *arrays), batched, strict=True)
        ]
        return jax.lax.map(lambda one: run(*one), tuple(every)), (True,) * len(rows)

    found: tuple[jax.Array, ...] = run(x, *jax.tree.leaves(weights), *given)
    return found
