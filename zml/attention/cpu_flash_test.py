import re
from typing import Any

import jax
import numpy as np
import pytest

from zml.attention import Attention, KvCache, attention
from zml.buffer import Slice
from zml.dtypes import DType
from zml.kernels.cpu import library
from zml.ops import value_and_grad, vmap
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.load()))


@pytest.fixture(scope="module")
def flash() -> Attention:
    return Attention.using("cpu_flash")


def _random(dtype: str = "f32", /, **dims: int) -> Tensor:
    values = np.random.default_rng().standard_normal(tuple(dims.values()))
    return Tensor(values.astype(DType.of(dtype).numpy), dims)


def _assert_equal(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == expected.shape
    given, wanted = (np.asarray(x.value).astype(np.float64) for x in (got, expected))
    np.testing.assert_allclose(given, wanted, rtol=tolerance, atol=tolerance, equal_nan=False)


@pytest.mark.parametrize("shared", [(), ("b",), ("c",), ("b", "c")])
def test_two_batch_axes_of_which_keys_may_lack_some(
    flash: Attention, shared: tuple[str, ...]
) -> None:
    q = _random(q=3, b=2, h=4, c=3, hd=8)
    dims = {tag: dim for tag, dim in {"c": 3, "b": 2}.items() if tag not in shared}
    k, v = (_random(h=2, **dims, k=7, hd=8) for _ in range(2))
    numbers: dict[str, Any] = {
        "start": Tensor(np.array([4, 0, 2], np.int32), ("c",)),
        "lengths": Tensor(np.array([7, 5], np.int32), ("b",)),
    }
    _assert_equal(flash(q, k, v, **numbers), attention(q, k, v, **numbers))


def test_orders_of_axes_and_dims_of_heads(flash: Attention) -> None:
    q, k, v = _random(hd=10, q=3, h=4), _random(k=9, hd=10, h=2), _random(hd=6, h=2, k=9)
    _assert_equal(flash(q, k, v, start=6), attention(q, k, v, start=6))


@pytest.mark.parametrize(
    ("query", "cache", "tolerance"),
    [("f32", "bf16", 1e-5), ("bf16", "f32", 3e-2), ("f32", "f8e4m3fn", 1e-5), ("f8e4m3fn", "bf16", 0.3)],
)  # fmt: skip
def test_element_types_that_differ(
    flash: Attention, query: str, cache: str, tolerance: float
) -> None:
    q, k, v = _random(query, q=3, h=4, hd=8), *(_random(cache, h=2, k=9, hd=8) for _ in range(2))
    expected = attention(*(x.convert("f32") for x in (q, k, v)), start=4).convert(query)
    _assert_equal(flash(q, k, v, start=4), expected, tolerance)


def test_infinite_keys_are_as_in_the_reference(flash: Attention) -> None:
    q, v = _random(q=2, h=1, hd=4), _random(h=1, k=3, hd=4)
    q = q.abs() + 1.0
    keys = np.ones((1, 3, 4), np.float32)
    keys[0, 1] = -np.inf
    k = Tensor(keys, ("h", "k", "hd"))
    _assert_equal(flash(q, k, v, start=2), attention(q, k, v, start=2))
    assert bool(flash(q, -k, v, start=2).is_nan().all().value)


@pytest.mark.parametrize("queries", [1, 9])
def test_gradients_are_those_of_the_reference(flash: Attention, queries: int) -> None:
    xs = [_random(q=queries, h=4, hd=8), *(_random(h=2, k=12, hd=8) for _ in range(2))]
    weights = _random(q=queries, h=4, hd=8)

    def loss(attend: Attention) -> Any:
        def f(xs: list[Tensor]) -> Tensor:
            return (attend(*xs, start=3, window=5) * weights).sum(*weights.tags)

        return jax.jit(value_and_grad(f))

    (got, slopes), (expected, wanted) = loss(flash)(xs), loss(attention)(xs)
    _assert_equal(got, expected, 1e-4)
    for slope, want in zip(slopes, wanted, strict=True):
        _assert_equal(slope, want, 1e-4)


def test_vmap_runs_it_for_each(flash: Attention) -> None:
    q, k, v = _random(q=2, b=3, h=4, hd=8), _random(b=3, h=2, k=5, hd=8), _random(h=2, k=5, hd=8)
    start = Tensor(np.array([3, 0, 1], np.int32), ("b",))

    def one(q: Tensor, k: Tensor, start: Tensor) -> Tensor:
        return flash(q, k, v, start=start)

    got = vmap(one, "b")(q, k, start)
    for b in range(3):
        _assert_equal(got.choose(b=b), one(q.choose(b=b), k.choose(b=b), start.choose(b=b)))


def _step(
    flash: Attention, q: Tensor, new: Tensor, cache: KvCache, start: Tensor
) -> tuple[Tensor, KvCache]:
    after = cache.append(0, new, new, start)
    return flash(q, *after.layer(0), start=start), after.reuse_buffer(cache)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_decode_step_reads_the_cache_where_it_is(flash: Attention, dtype: str) -> None:
    q, new = _random(dtype, q=1, h=32, hd=64), _random(dtype, k=1, h=8, hd=64)
    cache = KvCache.declare(1, {"h": 8, "k": 4096, "hd": 64}, dtype)
    arguments = (q, new, cache, Tensor(np.int32(7), ()))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)

    def step(*xs: Any) -> Any:
        return _step(flash, *xs)

    exe = jax.jit(step, donate_argnums=2).lower(*shapes).compile()
    memory, text = exe.memory_analysis(), exe.as_text()
    assert memory is not None and text is not None
    assert memory.alias_size_in_bytes == 2 * 8 * 4096 * 64 * DType.of(dtype).numpy.itemsize
    assert memory.temp_size_in_bytes < 100_000
    moved = re.findall(rf"= {dtype}\[8,4096,64\]\S* (\S+)\(", text.split("ENTRY")[1])
    assert not {"copy", "transpose", "convert"} & set(moved)


@pytest.mark.parametrize(("heads", "cached"), [(16, 8), (6, 3)])
@pytest.mark.parametrize("queries", [1, 9])
def test_each_device_does_its_own_heads(
    flash: Attention, heads: int, cached: int, queries: int
) -> None:
    platform = Platform.init("cpu", CpuOptions(device_count=4))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    cuts = {"h": "model"} if cached % 4 == 0 else {}
    tensors = (_random(q=queries, h=heads, hd=8), _random(k=queries, h=cached, hd=8))
    cache = KvCache(*((_random(h=cached, k=20, hd=8),) for _ in range(2)))
    start = Tensor(np.int32(5), ())
    declared = (
        *(x.shape.partitioned(**cuts) for x in tensors),
        KvCache.declare(1, cache.k[0].shape, **cuts),
        Shape({}, "i32"),
    )
    exe = platform.compile(lambda *xs: _step(flash, *xs), *declared)
    values = jax.tree.map(
        lambda x: Slice(np.asarray(x.value), x.tags, cuts if "h" in x.tags else {}),
        (*tensors, cache, start),
        is_leaf=lambda x: isinstance(x, Tensor),
    )
    got, _ = exe(*platform.put_tree(values))
    expected, _ = _step(attention, *tensors, cache, start)
    np.testing.assert_allclose(got.numpy(), expected.value, rtol=1e-5, atol=1e-5)
    if cuts:
        text = exe.hlo
        assert f"f32[{cached // 4},20,8]" in text
        assert "all-gather" not in text and "all-reduce" not in text
