from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from zml.errors import ShapeError
from zml.ops._testing import check, draw
from zml.tensor import Tensor


def _softmax(a: Any, axis: Any) -> Any:
    e = np.exp(a - a.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "i32", "i8"])
def test_folds(name: str, dtype: str) -> None:
    x, a = draw(0, dtype, 0.5, 1.5, b=2, s=3, d=5)
    if name == "mean" and dtype.startswith("i"):
        with pytest.raises(ShapeError, match="mean: it is defined for float or complex elements"):
            x.mean("s")
        return
    fold = getattr(x, name)
    check(fold("s"), getattr(a, name)(1), "b d", dtype)
    check(fold("d", "b"), getattr(a, name)((0, 2)), "s", dtype)
    check(fold(), getattr(a, name)(), "", dtype)


def test_folds_keep_their_precision_and_type() -> None:
    ones = Tensor(np.ones(1000, np.float32), ("s",))
    check(ones.convert("bf16").sum("s"), 1000, "", "bf16")
    check(draw(0, "i8", 100, 100, s=9)[0].sum("s", dtype="i32"), 900, "", "i32")
    check(draw(0, "i4", 7, 7, s=9)[0].sum("s", dtype="i32"), 63, "", "i32")
    check(draw(0, "c64", s=3)[0].sum("s"), draw(0, "c64", s=3)[1].sum(), "", "c64")
    with pytest.raises(ShapeError, match=r'i4 is too narrow for a sum.*dtype="f32"'):
        draw(0, "i4", s=3)[0].sum("s")


def test_folds_of_nothing() -> None:
    empty = draw(0, s=0, d=2)[0]
    check(empty.sum("s"), [0, 0], "d", "f32")
    check(empty.prod("s"), [1, 1], "d", "f32")
    assert bool(empty.mean("s").is_nan().all())
    for name in ("max", "min"):
        with pytest.raises(
            ShapeError, match=f"{name}: the axis 's' is empty; given {{s=0,d=2,f32}}"
        ):
            getattr(empty, name)("s")
    with pytest.raises(ShapeError, match="the axis 's' is empty"):
        empty.argmax("s")
    check(draw(0, s=0, d=2)[0].max("d"), np.zeros(0), "s", "f32")
    check(draw(0)[0].sum(), draw(0)[1], "", "f32")


def test_any_all_and_extremes_of_nan() -> None:
    x, a = draw(0, "bool", s=3, d=5)
    check(x.any("d"), a.any(1), "s", "bool")
    check(x.all("s", "d"), a.all(), "", "bool")
    y = Tensor(np.array([1, np.nan, 3], np.float32), ("s",))
    assert bool(y.max("s").is_nan())
    check(y.argmax("s"), 1, "", "i32")
    with pytest.raises(ShapeError, match="any: it is defined for bool elements, not f32"):
        y.any("s")


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32", "u8"])
def test_indices_of_extremes(dtype: str) -> None:
    x, a = draw(0, dtype, 0, 9, s=4, d=5)
    check(x.argmax("s"), a.argmax(0), "d", "i32")
    check(x.argmin("d", "u32"), a.argmin(1), "s", "u32")


def test_running_sums() -> None:
    x, a = draw(0, s=4, d=5)
    check(x.cumsum("s"), a.cumsum(0), "s d", "f32")
    check(x.cumsum("d", reverse=True), a[:, ::-1].cumsum(1)[:, ::-1], "s d", "f32")
    check(x.cumprod("d"), a.cumprod(1), "s d", "f32")


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_softmax_and_logsumexp(dtype: str) -> None:
    x, a = draw(0, dtype, s=3, b=2, d=5)
    check(x.softmax("d"), _softmax(a, 2), "s b d", dtype)
    check(x.softmax("s", "d"), _softmax(a, (0, 2)), "s b d", dtype)
    check(x.log_softmax("s"), np.log(_softmax(a, 0)), "s b d", dtype)
    check(x.logsumexp("b", "d"), np.log(np.exp(a).sum((1, 2))), "s", dtype)
    with pytest.raises(ShapeError, match="softmax: no axis is named"):
        x.softmax()


def test_softmax_of_great_numbers_and_masks() -> None:
    x = Tensor(np.array([1000, 1000, -np.inf], np.float32), ("s",))
    check(x.softmax("s"), [0.5, 0.5, 0], "s", "f32")
    check(x.logsumexp("s"), 1000 + np.log(2), "", "f32")
    gradient = jax.grad(lambda x: x.softmax("s").choose(s=0).value)(x)
    check(gradient, [0.25, -0.25, 0], "s", "f32")


def _windows(a: Any, size: int, stride: int) -> Any:
    return np.stack([a[..., i : i + size] for i in range(0, a.shape[-1] - size + 1, stride)], -2)


@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_pooling(dtype: str) -> None:
    x, a = draw(0, dtype, -9, 9, c=2, t=7)
    check(x.max_pool({"t": 2}), _windows(a, 2, 2).max(-1), "c t", dtype)
    check(x.sum_pool({"t": 3}, stride={"t": 1}), _windows(a, 3, 1).sum(-1), "c t", dtype)
    padded = np.pad(a, ((0, 0), (1, 1)), constant_values=-99)
    check(
        x.max_pool({"t": 3}, {"t": 2}, {"t": (1, 1)}), _windows(padded, 3, 2).max(-1), "c t", dtype
    )


def test_average_pooling_counts_no_padding() -> None:
    x, a = draw(0, h=4, c=2, w=6)
    expected = a.reshape(2, 2, 2, 3, 2).mean((1, 4)).transpose(0, 1, 2)
    check(x.avg_pool({"h": 2, "w": 2}), expected, "h c w", "f32")
    y = x.choose(h=0, c=0).avg_pool({"w": 2}, stride={"w": 6}, padding={"w": (1, 0)})
    check(y, a[0, 0, :1], "w", "f32")
    with pytest.raises(
        ShapeError, match="a window of 5 every 5 does not fit the 4 elements of 'h'"
    ):
        x.max_pool({"h": 5})
    with pytest.raises(ShapeError, match="the axis 'w' has no window"):
        x.max_pool({"h": 2}, stride={"w": 1})


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32", "u8"])
@pytest.mark.parametrize("descending", [False, True])
def test_sorting(dtype: str, descending: bool) -> None:
    x, a = draw(0, dtype, 0, 5, s=7, d=3)
    key = -a if descending else a
    order = np.argsort(key, 0, kind="stable")
    check(x.sort("s", descending), np.take_along_axis(a, order, 0), "s d", dtype)
    check(x.argsort("s", descending), order, "s d", "i32")
    assert draw(0, s=0)[0].sort("s").count == 0


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32"])
def test_top_k(dtype: str) -> None:
    x, a = draw(0, dtype, 0, 5, v=7, d=3)
    values, indices = x.top_k("v", 4)
    order = np.argsort(-a, 0, kind="stable")[:4]
    check(values, np.take_along_axis(a, order, 0), "v d", dtype)
    check(indices, order, "v d", "i32")
    with pytest.raises(ShapeError, match="top_k: 8 of the 7 elements of 'v'"):
        x.top_k("v", 8)


def test_nan_is_sorted_last() -> None:
    x = Tensor(np.array([np.nan, 1, np.inf, -np.inf], np.float32), ("s",))
    np.testing.assert_array_equal(x.sort("s").value, [-np.inf, 1, np.inf, np.nan])
    check(x.argsort("s"), [3, 1, 2, 0], "s", "i32")


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum("z"),
        lambda x: x.softmax("z"),
        lambda x: x.argmax("z"),
        lambda x: x.cumsum("z"),
        lambda x: x.sort("z"),
        lambda x: x.top_k("z", 1),
        lambda x: x.max_pool({"z": 1}),
    ],
)
def test_unknown_axes_are_named(call: Callable[[Tensor], object]) -> None:
    with pytest.raises(
        ShapeError, match=r": there is no axis 'z'; given \{s=2,f32\}; its tags are \['s'\]"
    ):
        call(draw(0, s=2)[0])
