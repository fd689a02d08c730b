import jax
import numpy as np
import pytest

from zml.attention import KvCache, append
from zml.errors import ShapeError
from zml.model_tree import leaves
from zml.ops.memory import Marks, marks
from zml.tensor import Tensor


def _draw(dtype: str = "float32", /, **dims: int) -> Tensor:
    values = np.random.default_rng().standard_normal(tuple(dims.values()))
    return Tensor(values.astype(dtype), dims)


def test_declared_there_is_a_tensor_for_each_layer() -> None:
    cache = KvCache.declare(3, {"h": 8, "k": 64, "hd": 16}, "bf16", h="model")
    assert [str(x.shape) for x in leaves(cache)] == ["{h=8/model,k=64,hd=16,bf16}"] * 6
    assert all(x.is_declared for x in leaves(cache))
    assert cache.length == 64


def test_a_cache_without_positions_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"no axis 'k'; given \{h=8,hd=16,bf16\}"):
        KvCache.declare(3, {"h": 8, "hd": 16}, "bf16")


@pytest.mark.parametrize("start", [0, 2, 5])
@pytest.mark.parametrize("known", [True, False], ids=["number", "tensor"])
def test_append_writes_there_and_nowhere_else(start: int, known: bool) -> None:
    cached, new = _draw(h=2, k=8, hd=4), _draw("float16", k=3, h=2, hd=4)
    got = jax.jit(append, static_argnums=2 if known else ())(
        cached, new, start if known else Tensor(np.int32(start), ())
    )
    expected = np.array(cached.value)
    expected[:, start : start + 3] = np.asarray(new.value).swapaxes(0, 1)
    assert got.tags == cached.tags
    np.testing.assert_array_equal(got.value, expected)


@pytest.mark.parametrize("order", [("b", "h", "k", "hd"), ("h", "k", "b", "hd")], ids=str)
def test_each_sequence_of_a_batch_has_its_place(order: tuple[str, ...]) -> None:
    cached, new = _draw(b=3, h=2, k=8, hd=4).transpose(*order), _draw(b=3, k=2, h=2, hd=4)
    starts = (6, 0, 3)
    got = append(cached, new, Tensor(np.array(starts, np.int32), ("b",)))
    assert got.tags == order
    expected = np.array(cached.transpose("b", "h", "k", "hd").value)
    for b, start in enumerate(starts):
        expected[b, :, start : start + 2] = np.asarray(new.value)[b].swapaxes(0, 1)
    np.testing.assert_array_equal(got.transpose("b", "h", "k", "hd").value, expected)


def test_a_layer_is_written_and_the_others_are_left() -> None:
    k, v = [_draw(h=2, k=8, hd=4) for _ in range(2)], [_draw(h=2, k=8, hd=4) for _ in range(2)]
    cache = KvCache(tuple(k), tuple(v))
    new_k, new_v = _draw(k=1, h=2, hd=4), _draw(k=1, h=2, hd=4)
    after = cache.append(1, new_k, new_v, 3)
    assert after.k[0] is cache.k[0]
    np.testing.assert_array_equal(after.k[1].value[:, 3], new_k.value[0])
    np.testing.assert_array_equal(after.layer(1)[1].value[:, 3], new_v.value[0])


def test_what_does_not_fit_is_refused() -> None:
    cached = _draw(h=2, k=8, hd=4)
    for new, start in (
        (_draw(s=1, h=2, hd=4), 0),
        (_draw(k=1, h=4, hd=4), 0),
        (_draw(k=3, h=2, hd=4), 6),
        (_draw(k=9, h=2, hd=4), Tensor(np.int32(0), ())),
    ):
        with pytest.raises(ShapeError, match=r"append: .* into the cache \{h=2,k=8,hd=4,f32\}"):
            append(cached, new, start)


def test_reuse_buffer_is_said_of_every_tensor() -> None:
    said = []

    def step(cache: KvCache, new: Tensor) -> KvCache:
        scope = Marks({id(x.value): i for i, x in enumerate(leaves(cache))})
        token = marks.set(scope)
        after = cache.append(0, new, new, 1).append(1, new, new, 1).reuse_buffer(cache)
        marks.reset(token)
        said.append([scope.reused[id(x.value)] for x in leaves(after)])
        return after

    x, new = _draw(h=2, k=8, hd=4), _draw(k=1, h=2, hd=4)
    jax.eval_shape(step, KvCache((x, x), (x, x)), new)
    assert said == [[0, 1, 2, 3]]
