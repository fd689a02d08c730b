"""Layers and attention cut over several devices give what they give on one."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from zml.attention import KvCache, attention
from zml.buffer import Slice
from zml.dtypes import DType
from zml.io.view import View
from zml.model_tree import is_leaf, model
from zml.nn import Embedding, Linear, Mlp, SamplingParameters, TokenCounts, sample
from zml.nn.sampling import FIELDS
from zml.platform import CpuOptions, Platform
from zml.shape import Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh
from zml.tensor import Tensor

_VIEW = View.blank("f32")


@model
class _Block:
    embedding: Embedding
    qkv: Linear
    o: Linear
    mlp: Mlp

    def __call__(self, tokens: Tensor, cache: KvCache, start: Tensor) -> tuple[Tensor, KvCache]:
        x = self.embedding(tokens)
        heads = self.qkv(x)
        new = heads.rename(s="k")
        after = cache.append(0, new, new, start)
        mixed = attention(heads.rename(s="q"), *after.layer(0), start=start)
        x = self.mlp(self.o(mixed.rename(q="s")))
        return self.embedding.attend(x), after.reuse_buffer(cache)


@pytest.fixture(scope="module")
def platform() -> Platform:
    result = Platform.init("cpu", CpuOptions(device_count=4))
    result.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return result


def _values(tree: Any) -> Any:
    """Random elements for what is declared."""
    rng = np.random.default_rng()

    def draw(x: Tensor) -> Slice:
        cuts = dict(zip(x.shape.tags, x.shape.partitions, strict=True))
        values = rng.standard_normal(x.shape.dims) / np.sqrt(x.shape.dims[-1])
        return Slice(values.astype(np.float32), x.tags, cuts)

    return jax.tree.map(draw, tree, is_leaf=is_leaf)


def _tensors(tree: Any) -> Any:
    return jax.tree.map(lambda x: Tensor(x.data, x.shape.tags), tree)


def _row(numbers: list[float], kind: str) -> Any:
    """Held by SamplingParameters in place of a Tensor."""
    return Slice(np.array(numbers, DType.of(kind).numpy), ("b",))


def _run(platform: Platform, f: Callable[..., Any], declared: Any, values: Any) -> Any:
    return platform.compile(f, *declared)(*platform.put_tree(values))


@pytest.mark.parametrize("cut", ["voc", "d"])
def test_a_block_over_four_devices(platform: Platform, cut: str) -> None:
    block = _Block(
        Embedding.init(_VIEW, 12, 8, **{cut: "model"}),
        Linear.init(_VIEW, {"h": 4, "hd": 2}, {"d": 8}, bias=True, h="model"),
        Linear.init(_VIEW, {"d": 8}, {"h": 4, "hd": 2}, bias=True, h="model"),
        Mlp.init(_VIEW, 8, 16, "silu", bias=True),
    )
    cache = KvCache.declare(1, {"h": 4, "k": 6, "hd": 2}, "f32", h="model")
    declared = (block, Shape({"s": 3}, "i32"), cache, Shape({}, "i32"))
    tokens, start = Slice(np.array([3, 11, 0], np.int32), ("s",)), Slice(np.int32(2))
    values = (_values(block), tokens, _values(cache), start)
    logits, after = _run(platform, _Block.__call__, declared, values)
    expected, cached = _Block.__call__(*_tensors(values))
    np.testing.assert_allclose(logits.numpy(), expected.value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.k[0].numpy(), cached.k[0].value, rtol=1e-4, atol=1e-5)
    assert str(after.k[0].shape) == "{h=4/model,k=6,hd=2,f32}"


def test_sampling_from_logits_that_are_cut(platform: Platform) -> None:
    rng = np.random.default_rng()
    logits = Slice(rng.standard_normal((3, 64)).astype(np.float32), ("b", "voc"), {"voc": "model"})
    rows: dict[str, Any] = {"temperature": [0, 1, 2], "top_k": [0, 9, 0], "top_p": [1, 0.9, 0.8]}
    numbers = {name: rows.get(name, [neutral] * 3) for name, (_, neutral) in FIELDS.items()}
    parameters: Any = SamplingParameters(
        **{n: _row(numbers[n], kind) for n, (kind, _) in FIELDS.items()}
    )
    seen, often = rng.random((3, 64)) < 0.1, rng.integers(0, 3, (3, 64)).astype(np.int32)
    both: list[Any] = [Slice(seen, ("b", "voc")), Slice(often, ("b", "voc"))]
    counts = TokenCounts(*both)
    values = (logits, parameters, counts, Slice(np.arange(3, dtype=np.int32), ("b",)))
    declared = jax.tree.map(lambda x: x.shape, values)
    tokens = _run(platform, sample, declared, values)
    np.testing.assert_array_equal(tokens.numpy(), sample(*_tensors(values)).value)
