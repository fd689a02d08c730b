import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import zml.pjrt.cpu
from zml import ops
from zml.errors import ShapeError
from zml.ops import random
from zml.ops._testing import check, draw
from zml.shape import Shape


def test_filled_tensors() -> None:
    shape = Shape({"s": 2, "d": 3}, "bf16", {"d": "model"})
    check(ops.zeros(shape), np.zeros((2, 3)), "s d", "bf16")
    assert ops.ones(shape).shape == shape
    check(ops.zeros({"s": 2}, "bool"), [False] * 2, "s", "bool")
    check(ops.ones({"s": 2}, "bool"), [True] * 2, "s", "bool")
    check(ops.constant(1.5, shape, "f32"), np.full((2, 3), 1.5), "s d", "f32")
    check(ops.constant(3, dtype="i8"), 3, "", "i8")
    check(ops.zeros({"s": 0}, "i4"), [], "s", "i4")


@pytest.mark.parametrize("dtype", ["i32", "u8", "f32", "bf16"])
def test_counting_tensors(dtype: str) -> None:
    check(ops.iota({"q": 2, "k": 3}, "k", dtype), [[0, 1, 2]] * 2, "q k", dtype)
    check(ops.iota({"q": 2, "k": 3}, "q", dtype), [[0] * 3, [1] * 3], "q k", dtype)
    check(ops.arange("s", 4, dtype=dtype), range(4), "s", dtype)
    check(ops.arange("s", 9, 2, -2, dtype=dtype), range(9, 2, -2), "s", dtype)
    assert ops.arange("s", 3, 3).count == 0


def test_ranges_of_floats() -> None:
    check(ops.arange("s", 0.5, 2, 0.25, dtype="f32"), np.arange(0.5, 2, 0.25), "s", "f32")
    check(ops.linspace("s", -1, 1, 5), np.linspace(-1, 1, 5), "s", "f32")
    check(ops.linspace("s", 3, 4, 1, dtype="bf16"), [3], "s", "bf16")


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no type": (lambda: ops.zeros({"s": 1}), "zeros: there is no element type"),
    "64 bits": (lambda: ops.zeros({"s": 1}, "f64"), "zeros: JAX has 64-bit types switched off"),
    "not of the type": (
        lambda: ops.constant(1.5, {"s": 1}, "i32"),
        r"constant: 1.5 \(float\) does not become",
    ),
    "out of range": (
        lambda: ops.arange("s", 300, dtype="u8"),
        "arange: 299 is out of the range of u8",
    ),
    "no axis": (lambda: ops.iota({"s": 1}, "z", "i32"), r"\{s=1,i32\} has no axis 'z'"),
    "bool": (lambda: ops.iota({"s": 1}, "s", "bool"), "iota: a bool counts nothing"),
    "step": (lambda: ops.arange("s", 3, 4, 0), "the step is 0"),
    "integers": (lambda: ops.linspace("s", 0, 1, 3, dtype="i32"), "linspace: i32 is no float type"),
    "seed": (lambda: random.State.init(-1), "the seed -1 is out of range"),
    "empty range": (
        lambda: random.uniform(random.State.init(0), {"s": 1}, 1, 1),
        "low=1 is not below high=1",
    ),
    "type drawn": (
        lambda: random.normal(random.State.init(0), {"s": 1}, dtype="i8"),
        "i8 is not drawn",
    ),
    "too many": (
        lambda: random.bits(random.State.init(0), {"s": 1 << 32}),
        "more elements than numbers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize(
    ("key", "block", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_answers(key: Any, block: Any, expected: Any) -> None:
    words = random._threefry(
        *(jax.numpy.asarray(np.array(x, np.uint32)) for x in (key, block[0], block[1]))
    )
    assert tuple(int(word) for word in words) == expected


def test_numbers_depend_on_seed_draw_and_index_alone() -> None:
    first, x = random.bits(random.State.init(7), {"a": 3, "b": 4})
    _, again = jax.jit(lambda s: random.bits(s, {"n": 12}))(
        random.State.init(ops.constant(7, {}, "i32"))
    )
    np.testing.assert_array_equal(x.value.reshape(-1), again.value)
    words = [x, random.bits(first, {"n": 12})[1]]
    for state in (
        random.State.init(8),
        random.State.init(7 << 32),
        random.State.init(7).fold_in(0),
        first.fold_in(0),
    ):
        words.append(random.bits(state, {"n": 12})[1])
    assert len({tuple(np.asarray(w.value).ravel().tolist()) for w in words}) == len(words)
    folded = random.State.init(7).fold_in(ops.constant(5, {}, "i32"))
    np.testing.assert_array_equal(folded.key.value, random.State.init(7).fold_in(5).key.value)


def test_numbers_are_the_same_under_sharding() -> None:
    mesh = Mesh(np.array(zml.pjrt.cpu.client(3).local_devices()), ("x",))
    state = random.State.init(3)
    expected = np.asarray(random.bits(state, {"a": 6, "b": 5})[1].value)
    key = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    cut = jax.jit(
        lambda s: random.bits(s, {"a": 6, "b": 5})[1].value,
        out_shardings=NamedSharding(mesh, PartitionSpec("x")),
    )(key)
    assert cut.sharding.shard_shape(cut.shape) == (2, 5)
    np.testing.assert_array_equal(np.asarray(cut), expected)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
def test_distributions_have_their_moments(dtype: str) -> None:
    count = 50000
    with jax.enable_x64(dtype == "f64"):
        shape = Shape({"n": count}, dtype)
        state, u = random.uniform(random.State.init(1), shape, -1, 3)
        state, z = random.normal(state, shape)
        state, g = random.gumbel(state, shape)
        assert (u.dtype, z.dtype, g.dtype) == (dtype,) * 3
        uniform, normal, gumbel = (np.asarray(x.value).astype(np.float64) for x in (u, z, g))
    assert uniform.min() >= -1
    assert uniform.max() < 3
    rounding = 0.02 if dtype == "bf16" else 0.0
    for sample, mean, deviation in (
        (uniform, 1, 4 / math.sqrt(12)), (normal, 0, 1), (gumbel, 0.5772156649, math.pi / math.sqrt(6)),
    ):  # fmt: skip
        assert abs(sample.mean() - mean) < 5 * deviation / math.sqrt(count) + rounding
        assert abs(sample.std() / deviation - 1) < 0.03
    assert np.isfinite(gumbel).all()
    below = [(normal < edge).mean() for edge in (-2, -1, 0, 1, 2)]
    expected = [(1 + math.erf(edge / math.sqrt(2))) / 2 for edge in (-2, -1, 0, 1, 2)]
    np.testing.assert_allclose(below, expected, atol=0.012)


def test_uniform_steps_are_exact_and_reach_both_ends() -> None:
    _, x = random.uniform(random.State.init(0), {"n": 5000}, dtype="bf16")
    steps = np.asarray(x.value).astype(np.float64) * 256
    np.testing.assert_array_equal(steps, np.round(steps))
    assert (float(steps.min()), float(steps.max())) == (0.0, 255.0)
    _, y = random.uniform(random.State.init(0), {"n": 5000}, 1, 2, dtype="bf16")
    assert float(y.convert("f32").max().value) < 2


def test_categorical_draws_with_the_probabilities_of_softmax() -> None:
    logits, a = draw(0, v=5)
    rows = logits.insert("n").broadcast({"n": 40000, "v": 5})
    _, x = random.categorical(random.State.init(5), rows.convert("bf16"), "v")
    assert (x.tags, x.dtype) == (("n",), "i32")
    share = np.bincount(np.asarray(x.value), minlength=5) / 40000
    np.testing.assert_allclose(share, np.exp(a) / np.exp(a).sum(), atol=0.01)
    masked = ops.constant(-np.inf, {"v": 3}, "f32").scatter(
        ops.zeros({}, "f32"), v=ops.constant(1, {}, "i32")
    )
    assert int(random.categorical(random.State.init(0), masked, "v")[1].value) == 1


def test_states_are_mapped_over_requests() -> None:
    seeds = ops.arange("b", 4, dtype="u32")
    many = ops.vmap(lambda seed: random.bits(random.State.init(seed), {"n": 3})[1], "b")(seeds)
    for i in range(4):
        one = random.bits(random.State.init(i), {"n": 3})[1]
        np.testing.assert_array_equal(many.value[i], one.value)
