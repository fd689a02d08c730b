"""Products with the weights of linear layers, by the native library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zml.kernels.cpu.formats import Packed, dequantize

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "sigmoid")
"""Those that a kernel can finish a gate with, in the order of the library's numbers, from 1."""

type Weight = jax.Array | Packed
"""A weight [n, k]: row-major of bf16, f16 or f32, or packed."""


def supports(dtype: Any) -> bool:
    """Whether there is a kernel for activations, and dense weights, of an element type."""
    return str(np.dtype(dtype)) in ("float32", "bfloat16", "float16")


def linear(
    x: jax.Array,
    weights: Sequence[Weight],
    biases: Sequence[jax.Array | None] | None = None,
    *,
    dtype: Any = None,
) -> tuple[jax.Array, ...]:
    """x [m, k] times each weight [n, k], plus its bias [n]: [m, n] each, of the type `dtype` (by default that of x).

    One to three weights of one kind, with biases all or none. Sums are float32. Packed weights are multiplied with x
    rounded to 16 bits in groups of 32.
    """
    given = [bias for bias in biases or () if bias is not None]
    result = x.dtype if dtype is None else np.dtype(dtype)
    rows = [_rows(w) for w in weights]
    shapes = [jax.ShapeDtypeStruct((x.shape[0], n), result) for n in rows]
    return tuple(_call(x, weights, given, shapes, "none"))


def gated(
    x: jax.Array,
    gate: Weight,
    up: Weight,
    activation: str,
    biases: Sequence[jax.Array | None] | None = None,
) -> jax.Array:
    """activation(x gate^T + bias) * (x up^T + bias): x [m, k] and weights [n, k] -> [m, n], of the type of x."""
    given = [bias for bias in biases or () if bias is not None]
    shape = jax.ShapeDtypeStruct((x.shape[0], _rows(gate)), x.dtype)
    return _call(x, (gate, up), given, [shape], activation)[0]


def _rows(weight: Weight) -> int:
    return weight.rows if isinstance(weight, Packed) else int(weight.shape[0])


def _call(
    x: jax.Array,
    weights: Sequence[Weight],
    biases: Sequence[jax.Array],
    results: list[jax.ShapeDtypeStruct],
    activation: str,
) -> list[jax.Array]:
    if x.dtype == np.float16:
        # Its range is that of no sum: what goes in and what comes out is converted.
        wide = [jax.ShapeDtypeStruct(r.shape, np.float32) for r in results]
        ys = _call(x.astype(jnp.float32), weights, biases, wide, activation)
        return [y.astype(r.dtype) for y, r in zip(ys, results, strict=True)]
    kinds = {w.format if isinstance(w, Packed) else str(w.dtype) for w in weights}
    if len(kinds) > 1 or len(biases) not in (0, len(weights)):
        raise ValueError(
            f"linear: weights of {sorted(kinds)} with {len(biases)} biases; expected one kind of weight for a call, "
            "and biases for all or none"
        )
    operands = [x]
    for i, weight in enumerate(weights):
        operands += [weight.values, weight.scales] if isinstance(weight, Packed) else [weight]
        operands += biases[i : i + 1]
    attributes = {
        "count": np.int64(len(weights)),
        "format": np.int64(weights[0].format.code if isinstance(weights[0], Packed) else 0),
        "biased": bool(biases),
        "activation": np.int64(("none", *ACTIVATIONS).index(activation)),
        "columns": np.int64(x.shape[1]),
    }
    native = jax.ffi.ffi_call("zml_cpu_linear", results, vmap_method="sequential")

    def run(*operands: jax.Array) -> list[jax.Array]:
        return list(native(*operands, **attributes))

    if isinstance(weights[0], Packed):
        return run(*operands)

    def plain(*operands: jax.Array) -> list[jax.Array]:
        ys = _dense_reference(operands, bool(biases), activation)
        return [y.astype(r.dtype) for y, r in zip(ys, results, strict=True)]

    # Derivatives are those of the same in XLA's operations.
    differentiable = jax.custom_jvp(run)

    @differentiable.defjvp
    def _tangents(given: Any, changes: Any) -> Any:
        return differentiable(*given), jax.jvp(plain, given, changes)[1]

    found: list[jax.Array] = differentiable(*operands)
    return found


_PLAIN: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "sigmoid": jax.nn.sigmoid,
}


def reference(
    x: jax.Array,
    weights: Sequence[Weight],
    biases: Sequence[jax.Array] = (),
    activation: str = "none",
) -> list[jax.Array]:
    """The same in XLA's operations, with results in float32: what the kernels are compared with."""
    sums = []
    for i, weight in enumerate(weights):
        wide = dequantize(weight) if isinstance(weight, Packed) else weight.astype(jnp.float32)
        y = jnp.dot(x.astype(jnp.float32), wide.T, precision="highest")
        sums.append(y + biases[i].astype(jnp.float32) if biases else y)
    return sums if activation == "none" else [_PLAIN[activation](sums[0]) * sums[1]]


def _dense_reference(
    operands: Sequence[jax.Array], biased: bool, activation: str
) -> list[jax.Array]:
    x, *rest = operands
    step = 2 if biased else 1
    return reference(x, rest[::step], rest[1::2] if biased else (), activation)
