from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.attention import Attention, attention, rows
from zml.attention.base import Parameters
from zml.attention.rows import Mask, Rows
from zml.buffer import Slice
from zml.ops import value_and_grad
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor

KERNELS = ["mosaic_tpu", "cuda_fa2"]


def _random(**dims: int) -> Tensor:
    values = np.random.default_rng().standard_normal(tuple(dims.values()))
    return Tensor(values.astype(np.float32), dims)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 4, 1 << 40])
@pytest.mark.parametrize("group", [1, 3])
def test_the_span_of_a_block_is_what_its_rows_see(
    group: int, window: int | None, causal: bool
) -> None:
    mask = Mask.of(group, Parameters(causal, window))
    row, key = jnp.arange(8 * group)[:, None], jnp.arange(20)[None]
    for start in (0, 2, 11):
        for length in (0, 1, 9, 20):
            seen = mask.seen(row, key, start, length)
            # By the definition: rows of a query stand together.
            query, there = start + row // group, key < length
            expected = np.asarray(there & ((key <= query) | (not causal)))
            if window is not None:
                expected = expected & np.asarray(abs(query - key) < min(window, 99))
            np.testing.assert_array_equal(jnp.broadcast_to(seen, expected.shape), expected)
            for first, last in ((0, 8 * group - 1), (2, 5)):
                begin, end = (int(x) for x in mask.span(first, last, start, length))
                wanted = np.flatnonzero(expected[first : last + 1].any(0))
                if len(wanted):
                    assert (begin, end) == (wanted[0], wanted[-1] + 1)


def test_rows_hold_the_heads_of_a_group_side_by_side() -> None:
    q, k = _random(q=3, h=4, hd=2), _random(h=2, k=5, hd=2)
    call = Rows.of([q, k, k, Tensor(np.int32(1), ()), Tensor(np.int32(9), ())])
    assert call.q.shape == (1, 2, 6, 2)
    np.testing.assert_array_equal(call.q[0, 1, 2 * 2 + 1], q.value[2, 3])
    np.testing.assert_array_equal(call.result(call.pad(16)).value, q.value)
    assert call.length == 5, "no more keys than there are"


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(("heads", "cached"), [(16, 8), (6, 3)])
def test_each_device_does_its_own_heads(backend: str, heads: int, cached: int) -> None:
    platform = Platform.init("cpu", CpuOptions(device_count=4))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    cuts = {"h": "model"} if cached % 4 == 0 else {}
    q, k, v = _random(q=2, h=heads, hd=16), *(_random(h=cached, k=20, hd=16) for _ in range(2))
    declared = [x.shape.partitioned(**cuts) for x in (q, k, v)]
    kernel = Attention.using(backend)
    with rows.interpreted():
        exe = platform.compile(
            lambda *xs: kernel(*xs[:3], start=xs[3]), *declared, Shape({}, "i32")
        )
    assert "all-gather" not in exe.hlo
    buffers = [platform.put(Slice(np.asarray(x.value), x.tags, cuts)) for x in (q, k, v)]
    got = exe(*buffers, platform.put(Slice(np.int32(7), ())))
    expected = attention(q, k, v, start=7)
    np.testing.assert_allclose(got.numpy(), expected.value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", KERNELS)
def test_gradients_are_those_of_the_reference(backend: str) -> None:
    xs = [_random(q=3, h=4, hd=16), *(_random(h=2, k=12, hd=16) for _ in range(2))]

    def slopes(attend: Attention) -> Any:
        def f(xs: list[Tensor]) -> Tensor:
            return attend(*xs, start=3).square().sum("q", "h", "hd")

        return jax.jit(value_and_grad(f))(xs)[1]

    with rows.interpreted():
        got = slopes(Attention.using(backend))
    for slope, want in zip(got, slopes(attention), strict=True):
        np.testing.assert_allclose(slope.value, want.value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", KERNELS)
def test_keys_without_the_batch_axes_are_shared_by_them(backend: str) -> None:
    q, k, v = _random(b=2, q=3, c=2, h=4, hd=16), *(_random(h=2, k=9, hd=16) for _ in range(2))
    start = Tensor(np.array([6, 1], np.int32), ("c",))
    with rows.interpreted():
        got = Attention.using(backend)(q, k, v, start=start)
    expected = attention(q, k, v, start=start)
    np.testing.assert_allclose(got.value, expected.value, rtol=1e-4, atol=1e-5)
