import gc
import weakref
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zml import ops
from zml.buffer import Buffer
from zml.errors import CheckpointError, CompileError, ShapeError, ShardingError
from zml.io import TensorStore, View, load, stored_bytes
from zml.io.transform import Making, function_identity, plan
from zml.platform import CpuOptions, Platform
from zml.shape import REPLICATED, Shape
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh, Sharding
from zml.tensor import Tensor
from zml.testing import files, fresh

_BF16 = np.dtype(ml_dtypes.bfloat16)


def _platform(devices: int = 1) -> Platform:
    """A new one: what is compiled is counted."""
    platform = Platform.init("cpu", CpuOptions(devices))
    platform.sharding("model", LogicalMesh(model=HIGH_BANDWIDTH))
    return platform


@cache
def _shared(devices: int) -> Platform:
    return _platform(devices)


class _Counting:
    """A platform that counts programs."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.compiled: list[str] = []
        self.client = platform.client
        self.where = platform.where
        self.put = platform.put
        self.sharding_for = platform.sharding_for

    def compile(
        self,
        fn: Callable[..., Any],
        *args: Any,
        shardings: Sequence[Sharding] | None = None,
        name: str | None = None,
    ) -> Any:
        self.compiled.append(name or "")
        return self.platform.compile(fn, *args, shardings=shardings, name=name)


def _load(declared: Any, store: TensorStore, devices: int = 1) -> Any:
    return load(declared, store, _shared(devices))


def _random(*dims: int, dtype: Any = np.float32) -> np.ndarray:
    return fresh.generator().standard_normal(dims).astype(dtype)


def fuse(*parts: Tensor) -> Tensor:
    return ops.concatenate(parts, "dout")


def halves(x: Tensor) -> dict[str, Tensor]:
    first, second = x.chunk("dout", 2)
    return {"first": first, "second": second.transpose("d", "dout")}


def scaled(x: Tensor, *, by: float) -> Tensor:
    return x * by


def test_several_become_one(tmp_path: Path) -> None:
    q, k, v = _random(8, 16), _random(4, 16), _random(4, 16)
    store = files.store(tmp_path, {"a.q": q, "a.k": k, "a.v": v})
    view = store.view("f32").prefix("a")
    parts = [view.tensor(name, ("dout", "d")) for name in "qkv"]
    fused = view.derived("qkv", fuse, *parts)
    assert fused.shape == Shape({"dout": 16, "d": 16}, "f32")
    assert store.check({"w": fused}) == [] and stored_bytes(fused, store) == 4 * 16 * 16
    loaded = _load({"w": fused}, store)["w"]
    assert isinstance(loaded, Buffer) and loaded.shape == fused.shape
    np.testing.assert_array_equal(loaded.numpy(), np.concatenate([q, k, v]))


def test_one_becomes_several_and_is_read_once(tmp_path: Path) -> None:
    w = _random(6, 4)
    store = files.store(tmp_path, {"w": w})
    made = store.view().derived("w", halves, store.view().tensor("w", ("dout", "d")))
    assert made["second"].shape == Shape({"d": 4, "dout": 3}, "f32")
    (making,) = plan(list(made.values()), _shared(1))
    assert len(making.sources) == 1
    loaded = _load(made, store)
    np.testing.assert_array_equal(loaded["first"].numpy(), w[:3])
    np.testing.assert_array_equal(loaded["second"].numpy(), w[3:].T)


def test_conversion_transposition_and_other_tensors_beside(tmp_path: Path) -> None:
    w, b = _random(3, 5, dtype=np.float16), _random(5)
    store = files.store(tmp_path, {"w": w, "b": b})
    view = store.view()
    declared = [
        view.tensor("b", ("d",)),
        view.derived(
            "w", lambda x: x.transpose("d", "dout").convert("f32"), view.tensor("w", ("dout", "d"))
        ),
        None,
        view.tensor("w", ("dout", "d")),
    ]
    bias, turned, none, plain = _load(declared, store)
    np.testing.assert_array_equal(bias.numpy(), b)
    np.testing.assert_array_equal(turned.numpy(), w.T.astype(np.float32))
    np.testing.assert_array_equal(plain.numpy(), w)
    assert none is None


def test_what_is_made_may_be_made_into_something_else(tmp_path: Path) -> None:
    a, b = _random(2, 4), _random(2, 4)
    store = files.store(tmp_path, {"a": a, "b": b})
    view = store.view()
    doubled = view.derived("a2", partial(scaled, by=2.0), view.tensor("a", ("dout", "d")))
    fused = view.derived("ab", fuse, doubled, view.tensor("b", ("dout", "d")), doubled)
    loaded = _load((fused, doubled), store)
    np.testing.assert_array_equal(loaded[0].numpy(), np.concatenate([2 * a, b, 2 * a]))
    np.testing.assert_array_equal(loaded[1].numpy(), 2 * a)
    assert stored_bytes((fused, doubled), store) == a.nbytes + b.nbytes


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("cut", ["dout", "d", None])
@pytest.mark.parametrize("rows", [(8, 4, 4), (6, 3, 3), (8, 2, 6)])
def test_the_result_is_cut_as_it_is_declared(
    rows: tuple[int, ...], cut: str | None, devices: int, tmp_path: Path
) -> None:
    """Also where the parts' own rows do not divide by the number of devices."""
    arrays = {name: _random(count, 8) for name, count in zip("qkv", rows, strict=True)}
    if sum(rows) % devices:
        rows = (*rows[:2], rows[2] + devices - sum(rows) % devices)
        arrays["v"] = _random(rows[2], 8)
    store = files.store(tmp_path, arrays)
    view = store.view()
    parts = [view.tensor(name, ("dout", "d")) for name in "qkv"]
    fused = view.derived("qkv", fuse, *parts, **({cut: "model"} if cut else {}))
    loaded = _load(fused, store, devices)
    whole = np.concatenate(list(arrays.values()))
    np.testing.assert_array_equal(loaded.numpy(), whole)
    assert loaded.shape == fused.shape
    assert loaded.array.sharding.is_equivalent_to(_shared(devices).where(fused.shape), 2)
    for shard in loaded.array.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
        assert shard.data.shape == {
            "dout": (whole.shape[0] // devices, 8), "d": (whole.shape[0], 8 // devices),
        }.get(cut or "", whole.shape)  # fmt: skip


def test_sources_are_cut_like_the_result_where_they_can_be(tmp_path: Path) -> None:
    arrays = {"q": _random(8, 6), "k": _random(3, 6), "v": _random(4, 6)}
    store = files.store(tmp_path, arrays)
    view, four = store.view(), _shared(4)
    q = view.tensor("q", ("dout", "d"))
    k = view.tensor("k", ("dout", "d"))
    v = view.tensor("v", ("dout", "d"), dout=REPLICATED)
    made = view.derived("q", partial(scaled, by=3.0), q, dout="model")
    kept = view.derived("v", partial(scaled, by=3.0), v)
    (first, second) = plan([made, kept.partitioned(dout="model")], four)
    assert first.sources[0].tensor.shape.partition("dout") == "model"
    assert second.sources[0].tensor.shape.partition("dout") is REPLICATED
    odd = view.derived("k", lambda k, q: ops.concatenate([k, q, k, k, k], "dout"), k, q)
    (third,) = plan([odd.partitioned(dout="model")], four)
    assert [str(need.tensor.shape) for need in third.sources] == [
        "{dout=3,d=6,f32}", "{dout=8/model,d=6,f32}",
    ]  # fmt: skip
    loaded: Any = load([made, odd.partitioned(dout="model")], store, four)
    expected = np.concatenate([arrays[name] for name in "kqkkk"])
    np.testing.assert_array_equal(loaded[0].numpy(), arrays["q"] * 3)
    np.testing.assert_array_equal(loaded[1].numpy(), expected)


def _layers(view: View, count: int, by: Callable[[int], float] = lambda _: 2.0) -> list[Tensor]:
    """Each with a function object of its own."""
    factors = list(map(by, range(count)))
    return [
        view.derived(
            f"{i}.w",
            lambda x, y, by=factors[i]: ops.concatenate([x * by, y], "dout"),
            view.tensor(f"{i}.x", ("dout", "d")),
            view.tensor(f"{i}.y", ("dout", "d")),
        )
        for i in range(count)
    ]


def test_layers_of_the_same_shapes_share_a_program(tmp_path: Path) -> None:
    arrays = {f"{i}.{x}": _random(4, 3 + (i == 5)) for i in range(6) for x in "xy"}
    store = files.store(tmp_path, arrays)
    counting = _Counting(_shared(1))
    made: Any = load(_layers(store.view(), 6), store, counting)
    assert len(counting.compiled) == 2
    for i, buffer in enumerate(made):
        expected = np.concatenate([arrays[f"{i}.x"] * 2, arrays[f"{i}.y"]])
        np.testing.assert_array_equal(buffer.numpy(), expected)
    counting = _Counting(_shared(1))
    made = load(_layers(store.view(), 3, float), store, counting)
    assert len(counting.compiled) == 3
    for i, buffer in enumerate(made):
        np.testing.assert_array_equal(buffer.numpy()[:4], arrays[f"{i}.x"] * i)


def test_functions_that_compute_the_same_are_known_by_it() -> None:
    def closed(by: Any) -> Callable[[Any], Any]:
        return lambda x: x * by

    same = function_identity
    assert same(closed(2)) == same(closed(2)) != same(closed(3))
    assert same(closed(1)) != same(closed(1.0)) and same(closed(1)) != same(closed(True))
    assert same(closed(0.0)) != same(closed(-0.0))
    assert same(closed(closed(2))) == same(closed(closed(2))) != same(closed(closed(1)))
    assert same(partial(scaled, by=2)) == same(partial(scaled, by=2)) != same(partial(scaled, by=3))
    assert same(partial(max, 2)) != same(partial(max, default=2))
    mutable = closed([])
    assert same(mutable) == same(mutable) != same(closed([]))
    assert same(len) == same(len) != same(max)


def test_sources_are_dropped_when_they_are_not_needed_any_more(tmp_path: Path) -> None:
    big = np.zeros((512, 1024), np.float32)
    store = files.store(tmp_path, {"big": big, "other": big, "c": big[:1]})
    view, one = store.view(), _shared(1)
    large, other = (view.tensor(name, ("dout", "d")) for name in ("big", "other"))
    small = view.tensor("c", ("dout", "d"))
    declared = [
        view.derived("1", fuse, large, small),
        view.derived("2", fuse, other, small),
        view.derived("3", fuse, large, large),
    ]
    makings = plan(declared, one)
    assert sorted(making.indices for making in makings) == [(0, 2), (1,)]
    making = next(m for m in makings if len(m.indices) == 2)
    kept: list[weakref.ref[Buffer]] = []

    def buffer(number: int) -> Buffer:
        shape = making.sources[number].tensor.shape
        made = one.put(np.ones(shape.dims, np.float32), shape)
        kept.append(weakref.ref(made))
        return made

    assert making.deliver(1, buffer(1)) == {}
    made = making.deliver(0, buffer(0))
    assert made.keys() == {0, 2}
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


def test_errors_name_the_tensor_and_the_function(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"a": _random(2, 3), "b": _random(2, 4)})
    view = store.view()
    a, b = view.tensor("a", ("dout", "d")), view.tensor("b", ("dout", "d"))
    with pytest.raises(
        ShapeError, match=r"'ab', made by fuse of a \{dout=2,d=3,f32\}, b .*: concat"
    ):
        view.derived("ab", fuse, a, b)
    with pytest.raises(CompileError, match=r"'x', made by .*lambda.*: 'no such' \(KeyError\)"):
        view.derived("x", lambda x: {"x": x}["no such"], a)
    with pytest.raises(
        ShapeError, match=r"'x', made by .*<lambda> of a .*: the result is a int, expected"
    ):
        view.derived("x", lambda x: 3, a)
    with pytest.raises(ShapeError, match=r"'x': argument 1 is .*View\.tensor"):
        view.derived("x", fuse, a, Tensor.declare({"dout": 2, "d": 3}, "f32"))
    with pytest.raises(ShapeError, match=r"'q': argument 0 \(a\) is quantized as it is loaded"):
        view.derived("q", fuse, view.packed("a", 2, 3, "int8")[0])
    with pytest.raises(ShapeError, match=r"x: there is no axis 'h' to cut"):
        view.derived("x", fuse, a, a, h="model")


def test_what_fails_on_the_devices_names_them_too(tmp_path: Path) -> None:
    store = files.store(tmp_path, {"a": _random(2, 3)})

    class Failing(_Counting):
        def compile(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    made = [
        store.view().derived(f"layer.{i}", fuse, store.view().tensor("a", ("dout", "d")))
        for i in range(2)
    ]
    with pytest.raises(CompileError, match=r"'layer\.0', made by fuse of a .*: RESOURCE_EXHAUSTED"):
        load(made, store, Failing(_shared(1)))


def test_the_store_checks_what_is_behind(tmp_path: Path) -> None:
    store = files.store(
        tmp_path, {"a": _random(2, 3), "i": np.ones((2, 3), np.int32), "left": _random(1)}
    )
    view = store.view("f32")
    names = [view.tensor(n, {"dout": 2, "d": 3}) for n in ("a", "missing", "i")]
    wrong = view.tensor("a", {"dout": 3, "d": 3})
    with pytest.raises(CheckpointError) as error:
        store.check([view.derived("f", fuse, *names), view.derived("g", fuse, wrong)])
    said = str(error.value)
    assert "missing missing" in said and "i is I32, expected F16" in said
    assert "a is [2, 3], expected [3, 3]" in said and "It has left" in said
    assert store.check([view.derived("f", fuse, names[0])]) == ["i", "left"]


def test_a_result_in_other_memory(tmp_path: Path) -> None:
    a, one = _random(2, 3), _shared(1)
    store = files.store(tmp_path, {"a": a})
    made = store.view().derived(
        "w", partial(scaled, by=2.0), store.view().tensor("a", ("dout", "d"))
    )
    loaded: Any = load([made.in_memory("pinned_host"), made], store, one)
    assert [buffer.memory for buffer in loaded] == ["pinned_host", one.memories[0]]
    for buffer in loaded:
        np.testing.assert_array_equal(buffer.numpy(), a * 2)


def test_results_of_two_shardings_are_refused(tmp_path: Path) -> None:
    two = _platform(2)
    two.sharding("other", LogicalMesh(experts=HIGH_BANDWIDTH))
    store = files.store(tmp_path, {"w": _random(4, 4)})
    made = store.view().derived("w", halves, store.view().tensor("w", ("dout", "d")))
    cut = [made["first"].partitioned(dout="model"), made["second"].partitioned(dout="experts")]
    with pytest.raises(
        ShardingError, match=r"'w': what halves makes is cut by several .*model, other"
    ):
        load(cut, store, two)


def test_a_view_of_no_checkpoint_derives_too() -> None:
    view = View.blank("bf16")
    parts = [view.tensor(n, {"dout": 4, "d": 2}) for n in "ab"]
    assert view.derived("w", fuse, *parts, d="model").shape == Shape(
        {"dout": 8, "d": 2}, "bf16", {"d": "model"}
    )


def test_makings_take_sources_from_any_thread(tmp_path: Path) -> None:
    import threading

    one = _shared(1)
    arrays = {name: _random(4, 4) for name in "abcdefgh"}
    store = files.store(tmp_path, arrays)
    parts = [store.view().tensor(name, ("dout", "d")) for name in arrays]
    (making,) = plan([store.view().derived("w", fuse, *parts)], one)
    made: dict[int, Buffer] = {}

    def deliver(making: Making, number: int) -> None:
        source = making.sources[number]
        assert source.tensor.source is not None
        array = arrays[source.tensor.source.name]
        made.update(making.deliver(number, one.put(array, source.tensor.shape)))

    threads = [threading.Thread(target=deliver, args=(making, i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(made[0].numpy(), np.concatenate(list(arrays.values())))
