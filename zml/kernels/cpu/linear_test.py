"""Linear layers by native code, called through JAX: `native/linear_test.cc` holds all kernels against float64."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from zml.kernels.cpu import library, linear
from zml.kernels.cpu.formats import BLOCK, GROUP, Format, Packed, dequantize, pack
from zml.platform import CpuOptions, Platform
from zml.testing import fresh

type Array = np.ndarray[Any, Any]

# Bazel's builds have it always.
pytestmark = pytest.mark.skipif(
    not library.available() and "TEST_SRCDIR" not in os.environ, reason=str(library.load())
)

_F32, _BF16, _F16 = (np.dtype(t) for t in (np.float32, ml_dtypes.bfloat16, np.float16))
_KINDS = [_F32, _BF16, _F16, *Format]
# The rows that have a kernel of their own.
_FEW = 16
# Half a unit in the last place.
_ROUNDING = {_F32: 2.0**-24, _BF16: 2.0**-8, _F16: 2.0**-11}


def _weight(rng: np.random.Generator, kind: Any, rows: int, columns: int) -> linear.Weight:
    if not isinstance(kind, Format):
        return jnp.asarray(rng.normal(size=(rows, columns)).astype(kind))
    low, high = kind.limits
    q = rng.integers(low, high + 1, (rows, columns))
    dims = (rows,) if kind is Format.INT8_CHANNEL else (rows, -(-columns // GROUP))
    packed = pack(q, rng.uniform(0.5, 2, dims) / high, kind)
    return Packed(
        jnp.asarray(packed.values), jnp.asarray(packed.scales), rows, columns, packed.format
    )


def _exact(weight: linear.Weight) -> Array:
    """The weight in float64: the numbers times their scales, without rounding."""
    if not isinstance(weight, Packed):
        return np.asarray(weight, np.float64)
    host = Packed(
        np.asarray(weight.values), np.asarray(weight.scales), weight.rows, weight.columns,
        weight.format,
    )  # fmt: skip
    return dequantize(host, np.float64).astype(np.float64)


def _bound(x: Array, weight: linear.Weight) -> Array:
    """How far a float32 sum may be from the exact one: by its order, and, for a quantized weight, by what x is in."""
    w = np.abs(_exact(weight))
    error = (w.shape[1] / 4 + 16) * 2.0**-24 * (np.abs(x) @ w.T)
    if isinstance(weight, Packed):
        pad = [(0, 0), (0, -w.shape[1] % GROUP)]
        groups = np.abs(np.pad(x, pad)).reshape(len(x), -1, GROUP).max(2)
        sums = np.pad(w, pad).reshape(len(w), -1, GROUP).sum(2)
        largest = 127 if weight.format is Format.INT4 and len(x) <= _FEW else 32767
        error += 0.51 / largest * (groups @ sums.T)
        # `dequantize` multiplies in float32.
        error += 2.0**-24 * (np.abs(x) @ w.T)
    return error


def _check(y: jax.Array, expected: Array, error: Array) -> None:
    got = np.asarray(y, np.float64)
    assert got.shape == expected.shape
    limit = error + np.abs(expected) * _ROUNDING[np.dtype(y.dtype)] * 1.01 + 1e-30
    assert (np.abs(got - expected) <= limit).all(), (
        f"off by {np.abs(got - expected).max()}, allowed {limit.max()}"
    )


def _x(rng: np.random.Generator, rows: int, columns: int, dtype: Any) -> jax.Array:
    return jnp.asarray(rng.normal(size=(rows, columns)).astype(dtype))


def _calls(function: Any, *arguments: Any) -> Sequence[str]:
    """The lines of the compiled program that have operations, its native calls among them."""
    text = str(jax.jit(function).lower(*arguments).compile().as_text())
    entry = text[text.index("ENTRY") :].splitlines()[1:]
    return [line for line in entry if " = " in line and "parameter(" not in line]


@pytest.mark.parametrize("kind", _KINDS, ids=str)
def test_every_type_agrees_with_float64(kind: Any) -> None:
    rng = fresh.generator()
    types = [_F32, _BF16, _F16]
    for (x_type, y_type), rows in zip(
        itertools.product(types, types), [1, 2, 3, 5, 8, 16, 17, 40, 1], strict=True
    ):
        n, k = (int(size) for size in rng.integers(1, 200, 2))
        x, weight = _x(rng, rows, k, x_type), _weight(rng, kind, n, k)
        bias = jnp.asarray(rng.normal(size=n), rng.choice([x_type, _F32]))
        (y,) = linear.linear(x, [weight], [bias], dtype=y_type)
        assert y.dtype == y_type
        wide = np.asarray(x, np.float64)
        expected = wide @ _exact(weight).T + np.asarray(bias, np.float64)
        _check(y, expected, _bound(wide, weight) + np.abs(expected) * 2.0**-23)


@pytest.mark.parametrize("kind", _KINDS, ids=str)
def test_weights_that_share_x_are_one_call(kind: Any) -> None:
    rng = fresh.generator()
    x = _x(rng, 3, 70, _BF16)
    weights = [_weight(rng, kind, n, 70) for n in (48, 5, 33)]
    biases = [None, jnp.asarray(rng.normal(size=5), _BF16), jnp.asarray(rng.normal(size=33), _F32)]
    together = linear.linear(x, weights, biases)
    for y, weight, bias in zip(together, weights, biases, strict=True):
        (alone,) = linear.linear(x, [weight], [bias])
        np.testing.assert_array_equal(y, alone)
    found = _calls(lambda x, *ws: linear.linear(x, ws), x, *weights)
    assert sum("zml_cpu_linear" in line for line in found) == 1
    # Nothing but the call and what takes its results apart: no weight is copied or converted.
    others = [line for line in found if "custom-call" not in line]
    assert all(" tuple(" in line or " get-tuple-element(" in line for line in others)


def test_weights_of_several_kinds_and_more_than_a_call_takes() -> None:
    rng = fresh.generator()
    x = _x(rng, 2, 64, _F32)
    weights = [_weight(rng, kind, 20, 64) for kind in (*_KINDS, *[Format.INT4] * 5)]
    for y, weight in zip(linear.linear(x, weights), weights, strict=True):
        wide = np.asarray(x, np.float64)
        _check(y, wide @ _exact(weight).T, _bound(wide, weight))


@pytest.mark.parametrize("activation", linear.ACTIVATIONS)
@pytest.mark.parametrize("kind", [_BF16, Format.INT8], ids=str)
def test_gated(activation: str, kind: Any) -> None:
    rng = fresh.generator()
    x = _x(rng, 4, 90, _F32) / 8
    gate, up = (_weight(rng, kind, 70, 90) for _ in range(2))
    biases = [jnp.asarray(rng.normal(size=70), _F32), None]
    got = linear.gated(x, gate, up, activation, biases)
    expected = linear.reference_gated(x, gate, up, activation, biases)
    np.testing.assert_allclose(got, expected, rtol=3e-4, atol=3e-4)
    found = _calls(lambda x: linear.gated(x, gate, up, activation), x)
    assert [line for line in found if "zml_cpu_linear" in line]


def test_results_of_the_reference() -> None:
    rng = fresh.generator()
    x = _x(rng, 3, 50, _BF16)
    for kind in _KINDS:
        weight = _weight(rng, kind, 20, 50)
        (y,) = linear.reference_linear(x, [weight], dtype=_F32)
        wide = np.asarray(x, np.float64)
        _check(y, wide @ _exact(weight).T, _bound(wide, weight))


@pytest.mark.parametrize("kind", _KINDS, ids=str)
def test_nothing_to_sum_and_no_rows(kind: Any) -> None:
    rng = fresh.generator()
    (none,) = linear.linear(_x(rng, 0, 40, _F32), [_weight(rng, kind, 30, 40)])
    assert none.shape == (0, 30)
    bias = jnp.asarray(rng.normal(size=30), _F32)
    (empty,) = linear.linear(_x(rng, 2, 0, _F32), [_weight(rng, kind, 30, 0)], [bias])
    np.testing.assert_array_equal(empty, np.stack([bias, bias]))


@pytest.mark.parametrize("kind", _KINDS, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(kind: Any, bad: float) -> None:
    rng = fresh.generator()
    x = _x(rng, 3, 100, _F32).at[1, int(rng.integers(100))].set(bad)
    (y,) = linear.linear(x, [_weight(rng, kind, 40, 100)])
    finite = np.isfinite(np.asarray(y)).all(1)
    assert finite.tolist() == [True, False, True]
    assert not np.isfinite(np.asarray(y)[1]).any()


@pytest.mark.parametrize("kind", [_F32, _BF16], ids=str)
def test_gradients_of_dense_weights(kind: Any) -> None:
    rng = fresh.generator()
    x = _x(rng, 3, 30, kind)
    gate, up = (_weight(rng, kind, 20, 30) for _ in range(2))
    bias = jnp.asarray(rng.normal(size=20), kind)

    def loss(by: Any, x: Any, gate: Any, up: Any, bias: Any) -> jax.Array:
        (y,) = by[0](x, [gate], [bias], dtype=_F32)
        return (y**2).sum() + by[1](x, gate, up, "silu", dtype=_F32).sum()

    native, reference = (
        jax.grad(lambda *a, by=by: loss(by, *a), (0, 1, 2, 3))(x, gate, up, bias)
        for by in (
            (linear.linear, linear.gated),
            (linear.reference_linear, linear.reference_gated),
        )
    )
    for got, expected in zip(native, reference, strict=True):
        assert got.dtype == kind
        rtol, atol = (1e-5, 1e-4) if kind == _F32 else (2e-2, 0.1)
        wide = np.asarray(got, np.float64), np.asarray(expected, np.float64)
        np.testing.assert_allclose(*wide, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", Format)
def test_gradients_go_through_quantized_weights(kind: Format) -> None:
    rng = fresh.generator()
    x, weight = _x(rng, 2, 40, _F32), _weight(rng, kind, 24, 40)
    tangent = _x(rng, 2, 40, _F32)
    got = jax.grad(lambda x: (linear.linear(x, [weight])[0] ** 2).sum())(x)
    w = _exact(weight)
    expected = 2 * np.asarray(linear.linear(x, [weight])[0], np.float64) @ w
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    _, along = jax.jvp(lambda x: linear.linear(x, [weight])[0], [x], [tangent])
    wide = np.asarray(tangent, np.float64)
    _check(along, wide @ w.T, _bound(wide, weight))


def test_a_gradient_of_x_alone_does_not_compute_one_of_the_weight() -> None:
    rng = fresh.generator()
    x, weight = _x(rng, 2, 40, _F32), _weight(rng, _F32, 24, 40)
    program = jax.make_jaxpr(jax.grad(lambda x: linear.linear(x, [weight])[0].sum()))(x)
    assert str(program).count("dot_general") <= 2


@pytest.mark.parametrize("kind", [_BF16, Format.INT4], ids=str)
def test_vmap(kind: Any) -> None:
    rng = fresh.generator()
    xs = jnp.stack([_x(rng, 3, 50, _F32) for _ in range(4)])
    weight = _weight(rng, kind, 20, 50)
    got = jax.vmap(lambda x: linear.linear(x, [weight])[0])(xs)
    for x, y in zip(xs, got, strict=True):
        np.testing.assert_array_equal(y, linear.linear(x, [weight])[0])
    # The rows of all of the batch are one call's.
    found = _calls(jax.vmap(lambda x: linear.linear(x, [weight])[0]), xs)
    assert sum("zml_cpu_linear" in line for line in found) == 1

    weights = [_weight(rng, kind, 20, 50) for _ in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
    got = jax.vmap(lambda x, w: linear.linear(x, [w])[0])(xs, stacked)
    for x, weight, y in zip(xs, weights, got, strict=True):
        np.testing.assert_array_equal(y, linear.linear(x, [weight])[0])
    grads = jax.vmap(jax.grad(lambda x: linear.linear(x, [weights[0]])[0].sum()))(xs)
    assert grads.shape == xs.shape


def test_every_device_has_its_own_call() -> None:
    rng = fresh.generator()
    platform = Platform.init("cpu", CpuOptions(device_count=2))
    mesh = jax.sharding.Mesh(np.array([device.handle for device in platform.devices]), ("d",))
    x, weight = _x(rng, 3, 64, _BF16), _weight(rng, _BF16, 4 * BLOCK, 64)

    def put(value: Any, spec: P) -> jax.Array:
        return jax.device_put(np.asarray(value), NamedSharding(mesh, spec))

    cut = jax.jit(
        jax.shard_map(
            lambda x, w: linear.linear(x, [w])[0],
            mesh=mesh, in_specs=(P(None, None), P("d", None)), out_specs=P(None, "d"), check_vma=False,
        )
    )  # fmt: skip
    (expected,) = linear.linear(x, [weight])
    np.testing.assert_array_equal(cut(put(x, P(None, None)), put(weight, P("d", None))), expected)
    whole = jax.jit(lambda x, w: linear.linear(x, [w])[0])
    np.testing.assert_array_equal(
        whole(put(x, P(None, None)), put(weight, P(None, None))), expected
    )


def test_errors_name_the_dims() -> None:
    x, w = jnp.zeros((2, 8)), jnp.zeros((4, 9))
    with pytest.raises(ValueError, match=r"x of a weight \[4, 9\] is \[M, 9\]; given \[2, 8\]"):
        linear.linear(x, [w])
    with pytest.raises(ValueError, match=r"the bias of a weight \[4, 9\] is \[4\]; given \[3\]"):
        linear.linear(jnp.zeros((2, 9)), [w], [jnp.zeros(3)])
    with pytest.raises(ValueError, match="there is no activation 'mish'; expected one of silu"):
        linear.gated(x, w, w, "mish")
    with pytest.raises(ValueError, match="the weights have 4 and 5 rows"):
        linear.gated(jnp.zeros((2, 9)), w, jnp.zeros((5, 9)), "silu")
    with pytest.raises(ValueError, match="given 1 weights and 2 biases"):
        linear.linear(jnp.zeros((2, 9)), [w], [None, None])
    with pytest.raises(ValueError, match=r"a weight is \[rows, columns\]; given float32\[4\]"):
        linear.linear(jnp.zeros((2, 9)), [jnp.zeros(4)])


def test_supported_types() -> None:
    assert linear.supports(_BF16, _F16)
    assert linear.supports(_F32, Format.INT4)
    assert not linear.supports(np.int32, _F32)
    assert not linear.supports(_F32, ml_dtypes.float8_e4m3fn)
    # XLA computes what there is no kernel for.
    (y,) = linear.linear(jnp.ones((2, 3), np.int8), [jnp.ones((4, 3), np.int8)], dtype=_F32)
    np.testing.assert_array_equal(y, np.full((2, 4), 3.0))
