from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from zml import ops
from zml.errors import ShapeError
from zml.ops._testing import check, draw
from zml.tensor import Tensor


def _ints(values: Any, *tags: str, dtype: str = "i32") -> Tensor:
    return Tensor(np.asarray(values, np.int32), tags).convert(dtype)


def test_slices_and_choices() -> None:
    x, a = draw(0, b=3, s=5, d=4)
    check(x.slice(s=(1, 4), d=(None, -1)), a[:, 1:4, :-1], "b s d", "f32")
    check(x.slice(s=(None, None, 2), b=slice(-2, None)), a[-2:, ::2], "b s d", "f32")
    check(x.slice(s=(2, 2)), a[:, 2:2], "b s d", "f32")
    check(x.choose(b=-1, d=0), a[-1, :, 0], "s", "f32")
    check(x.choose(), a, "b s d", "f32")
    assert draw(0)[0].slice().tags == ()


@pytest.mark.parametrize("dtype", ["i32", "u8", "i64"])
def test_dynamic_slices_move_into_range(dtype: str) -> None:
    x, a = draw(0, s=5, d=4)
    with jax.enable_x64(dtype == "i64"):
        for start, real in (
            (1, 1),
            (4, 3),
            (200 if dtype == "u8" else -3, 3 if dtype == "u8" else 0),
        ):
            at = ops.constant(start, {}, dtype)
            check(x.dynamic_slice(s=(at, 2), d=(1, 3)), a[real : real + 2, 1:], "s d", "f32")
            update, u = draw(1, s=2, d=4)
            expected = a.copy()
            expected[real : real + 2] = u
            check(x.dynamic_update_slice(update, s=at), expected, "s d", "f32")


@pytest.mark.parametrize("dtype", ["i32", "u8", "i8"])
def test_gather_puts_the_axes_of_the_indices_in_place(dtype: str) -> None:
    x, a = draw(0, b=3, voc=200, d=4)
    index = np.array([[0, 3], [100, 7]])
    i = _ints(index, "p", "q", dtype=dtype)
    check(x.gather(voc=i), a[:, index], "b p q d", "f32")
    check(x.gather(voc=i.choose(p=1, q=0)), a[:, 100], "b d", "f32")
    check(x.gather(b=_ints([2, 0, 2], "n")), a[[2, 0, 2]], "n voc d", "f32")
    # The tag of the axis itself may come back.
    check(x.gather(b=_ints([2, 0, 2], "b")), a[[2, 0, 2]], "b voc d", "f32")


def test_gather_with_batch_axes_and_several_indices() -> None:
    x, a = draw(0, b=3, s=5, d=4)
    index = np.array([[0, 4], [1, 1], [3, 2]])
    check(x.gather(s=_ints(index, "b", "n")), a[np.arange(3)[:, None], index], "b n d", "f32")
    check(x.gather(s=_ints(index.T, "n", "b")), a[np.arange(3)[:, None], index], "b n d", "f32")
    along = np.array([[[0, 4, 2, 1]] * 2] * 3)
    check(x.gather(s=_ints(along, "b", "s", "d")), np.take_along_axis(a, along, 1), "b s d", "f32")
    two = x.gather(d=_ints([3, 0], "n"), b=_ints([2, 1], "n"))
    check(two, a[[2, 1], :, [3, 0]], "n s", "f32")


def test_gather_moves_indices_into_range_and_has_a_gradient() -> None:
    x, a = draw(0, s=5)
    check(x.gather(s=_ints([-9, 9], "n")), a[[0, 4]], "n", "f32")
    gradient = jax.grad(lambda x: x.gather(s=_ints([1, 1, 3], "n")).sum().value)(x)
    check(gradient, [0, 2, 0, 1, 0], "s", "f32")
    assert x.gather(s=_ints(np.zeros(0), "n")).count == 0


@pytest.mark.parametrize("mode", ["set", "add", "mul", "min", "max"])
@pytest.mark.parametrize("dtype", ["f32", "i32", "bf16"])
def test_scatter(mode: Any, dtype: str) -> None:
    x, a = draw(0, dtype, 1, 4, b=2, s=5, d=3)
    new, u = draw(1, dtype, 1, 4, n=3, d=3, b=2)
    expected = a.copy()
    functions: dict[str, Any] = {
        "set": lambda _, v: v,
        "add": np.add,
        "mul": np.multiply,
        "min": np.minimum,
        "max": np.maximum,
    }
    write = functions[mode]
    places = [4, 0, 9]
    for n, place in enumerate(places[:2]):
        expected[:, place] = write(expected[:, place], u[n].T)
    check(x.scatter(new, mode, s=_ints(places, "n")), expected, "b s d", dtype)


def test_scatter_with_batch_axes_adds_repeated_places() -> None:
    x, a = draw(0, b=2, s=4)
    new, u = draw(1, b=2, n=3)
    index = np.array([[0, 0, 3], [1, 2, 2]])
    expected = a.copy()
    np.add.at(expected, (np.arange(2)[:, None], index), u)
    check(x.scatter(new, "add", s=_ints(index, "b", "n")), expected, "b s", "f32")
    gradient = jax.grad(lambda u: (x.scatter(u, "add", s=_ints(index, "b", "n")) * x).sum().value)(
        new
    )
    check(gradient, np.take_along_axis(a, index, 1), "b n", "f32")
    pairs = ops.zeros({"i": 2, "j": 3}, "f32").scatter(
        draw(2, n=2)[0], i=_ints([1, 0], "n"), j=_ints([2, 1], "n")
    )
    check(pairs, [[0, draw(2, n=2)[1][1], 0], [0, 0, draw(2, n=2)[1][0]]], "i j", "f32")


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "slice beyond": (
        lambda x: x.slice(s=(0, 6)),
        r"slice: s=\(0, 6\) is not a range of 5 elements",
    ),
    "slice backwards": (lambda x: x.slice(s=(3, 1)), "is not a range of 5 elements"),
    "slice step": (lambda x: x.slice(s=(0, 5, -1)), "reverse.. goes backwards"),
    "slice unknown": (lambda x: x.slice(z=(0, 1)), "slice: there is no axis 'z'"),
    "choose": (lambda x: x.choose(s=5), "choose: s=5 is not one of 5 places"),
    "choose below": (lambda x: x.choose(s=-6), "choose: s=-6 is not one of 5 places"),
    "dynamic size": (lambda x: x.dynamic_slice(s=(0, 6)), "dynamic_slice: s has no 6 elements"),
    "dynamic start": (lambda x: x.dynamic_slice(s=(6, 1)), "s=6 is no place to start"),
    "start of rank 1": (lambda x: x.dynamic_slice(s=(_ints([1], "n"), 1)), "no integer of rank 0"),
    "start of floats": (
        lambda x: x.dynamic_slice(s=(x.sum(), 1)),
        "no integer of rank 0; given {f32}",
    ),
    "update": (
        lambda x: x.dynamic_update_slice(x.repeat(s=2), s=0),
        r"\{s=5,d=4,f32\} and \{s=10,d=4,f32\}",
    ),
    "update order": (
        lambda x: x.dynamic_update_slice(x.transpose("d", "s")),
        "the update does not fit",
    ),
    "update type": (lambda x: x.dynamic_update_slice(x.convert("bf16")), "the update does not fit"),
    "gather nothing": (lambda x: x.gather(), "gather: no axis is named"),
    "gather by floats": (lambda x: x.gather(s=x), "gather: it is defined for int elements"),
    "gather unknown": (lambda x: x.gather(z=_ints([1], "n")), "gather: there is no axis 'z'"),
    "gather batch": (
        lambda x: x.gather(s=_ints([1], "d")),
        r"the batch axes \['d'\] differ in size",
    ),
    "gather shapes": (
        lambda x: x.gather(s=_ints([1], "n"), d=_ints([1], "m")),
        "gather: the shapes differ",
    ),
    "gather from nothing": (
        lambda x: x.slice(s=(0, 0)).gather(s=_ints([1], "n")),
        "an empty axis is indexed",
    ),
    "scatter": (
        lambda x: x.scatter(x, s=_ints([1], "n")),
        r"the updates do not fit; .* expected the shape \{n=1,d=4,f32\}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ShapeError, match=message):
        call(draw(0, s=5, d=4)[0])
