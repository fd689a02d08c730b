from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zml import ops
from zml.errors import ShapeError
from zml.ops._testing import check, draw
from zml.shape import Shape


@pytest.fixture
def pair() -> Any:
    return draw(0, b=2, s=3, d=8)


def test_reshape_split_merge_flatten(pair: Any) -> None:
    x, a = pair
    check(x.reshape(p=6, q=-1), a.reshape(6, 8), "p q", "f32")
    check(x.split("d", h=2, hd=-1), a.reshape(2, 3, 2, 4), "b s h hd", "f32")
    check(x.split("d", d=2, e=4), a.reshape(2, 3, 2, 4), "b s d e", "f32")
    check(x.merge(n=("b", "s")), a.reshape(6, 8), "n d", "f32")
    check(x.merge(b=("b", "s")), a.reshape(6, 8), "b d", "f32")
    check(x.split("d", h=2, hd=4).merge(n=("b", "s"), d=("h", "hd")), a.reshape(6, 8), "n d", "f32")
    check(x.flatten("n"), a.reshape(-1), "n", "f32")
    check(draw(1)[0].flatten("n"), [draw(1)[1]], "n", "f32")
    check(draw(1, s=0, d=3)[0].merge(n=("s", "d")), np.zeros(0), "n", "f32")


def test_transpose_rename_squeeze_insert(pair: Any) -> None:
    x, a = pair
    check(x.transpose("d", "b", "s"), a.transpose(2, 0, 1), "d b s", "f32")
    check(x.transpose("d", ...), a.transpose(2, 0, 1), "d b s", "f32")
    check(x.transpose(..., "b"), a.transpose(1, 2, 0), "s d b", "f32")
    check(x.rename(s="d", d="s"), a, "b d s", "f32")
    check(x.insert("m", "n", at=1), a[:, None, None], "b m n s d", "f32")
    check(x.insert("m", at=3).squeeze("m"), a, "b s d", "f32")
    y = x.partitioned(s="model").rename(s="t")
    assert str(y.shape) == "{b=2,t=3/model,d=8,f32}"


def test_broadcast_goes_by_tag(pair: Any) -> None:
    x, a = pair
    w, b = draw(1, d=8, b=2)
    expected = np.broadcast_to(b.T[:, None, :], a.shape)
    check(w.broadcast(x), expected, "b s d", "f32")
    check(w.broadcast(x.shape), expected, "b s d", "f32")
    check(w.broadcast({"b": 2, "s": 3, "d": 8}) * x, expected * a, "b s d", "f32")
    check(w.insert("s").broadcast(x), expected, "b s d", "f32")
    check(ops.constant(2, dtype="f32").broadcast(Shape({"s": 2}, "f32")), [2, 2], "s", "f32")


def test_joining_and_cutting(pair: Any) -> None:
    x, a = pair
    y, b = draw(1, b=2, s=1, d=8)
    check(ops.concatenate([x, y, x], "s"), np.concatenate([a, b, a], 1), "b s d", "f32")
    check(ops.concatenate([x], "s"), a, "b s d", "f32")
    check(ops.stack([x, x], "n"), np.stack([a, a]), "n b s d", "f32")
    check(ops.stack([x, x], "n", at=3), np.stack([a, a], 3), "b s d n", "f32")
    for part, expected in zip(x.chunk("d", 4), np.split(a, 4, 2), strict=True):
        check(part, expected, "b s d", "f32")
    check(x.repeat(s=2, b=3), np.tile(a, (3, 2, 1)), "b s d", "f32")
    check(x.repeat_interleave(s=2, b=3), a.repeat(2, 1).repeat(3, 0), "b s d", "f32")
    check(x.repeat(s=0), a[:, :0], "b s d", "f32")


def test_moving_elements(pair: Any) -> None:
    x, a = pair
    check(x.reverse("s", "d"), a[:, ::-1, ::-1], "b s d", "f32")
    check(
        x.pad(1.5, s=(1, 2)),
        np.pad(a, ((0, 0), (1, 2), (0, 0)), constant_values=1.5),
        "b s d",
        "f32",
    )
    check(x.pad(s=(-1, 1)), np.pad(a[:, 1:], ((0, 0), (0, 1), (0, 0))), "b s d", "f32")
    check(draw(0, "bool", s=2)[0].pad(s=(0, 1)), [*draw(0, "bool", s=2)[1], False], "s", "bool")
    check(x.roll(s=1, d=-2), np.roll(a, (1, -2), (1, 2)), "b s d", "f32")


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 3])
def test_diagonals_and_triangles(offset: int) -> None:
    x, a = draw(0, i=3, b=2, j=4)
    check(x.diagonal("i", "j", into="k", offset=offset), np.diagonal(a, offset, 0, 2), "b k", "f32")
    moved = a.transpose(1, 0, 2)
    check(
        x.triangular("i", "j", offset=offset),
        np.tril(moved, offset).transpose(1, 0, 2),
        "i b j",
        "f32",
    )
    upper = np.triu(moved, offset).transpose(1, 0, 2)
    check(x.triangular("i", "j", lower=False, offset=offset), upper, "i b j", "f32")


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "reshape": (lambda x: x.reshape(a=5), r"reshape: the dims {'a': 5} do not make 48 elements"),
    "reshape twice unknown": (lambda x: x.reshape(a=-1, b=-1), "do not make 48 elements"),
    "reshape negative": (lambda x: x.reshape(a=-2, b=-24), "do not make 48 elements"),
    "split": (lambda x: x.split("d", h=3, e=-1), "split: the dims .* do not make 8 elements"),
    "split onto another": (lambda x: x.split("d", s=2, e=4), "there is already an axis 's'"),
    "split unknown": (
        lambda x: x.split("z", h=1),
        r"split: there is no axis 'z'; given \{b=2,s=3,d=8,f32\}",
    ),
    "merge apart": (
        lambda x: x.merge(n=("b", "d")),
        r"the axes \['b', 'd'\] do not follow one another",
    ),
    "merge reversed": (lambda x: x.merge(n=("s", "b")), "transpose first"),
    "merge a string": (lambda x: x.merge(n="bs"), "is no list of tags"),
    "merge nothing": (lambda x: x.merge(n=()), "is no list of tags"),
    "merge onto another": (lambda x: x.merge(d=("b", "s")), "there is already an axis 'd'"),
    "transpose": (lambda x: x.transpose("b", "s"), "is not an order of the axes"),
    "rename": (lambda x: x.rename(z="y"), "has no axis 'z'"),
    "rename to one": (lambda x: x.rename(b="s"), "'s' comes twice"),
    "squeeze": (lambda x: x.squeeze("d"), "squeeze: the axis 'd' has 8 elements"),
    "insert": (lambda x: x.insert("d"), "already has an axis 'd'"),
    "insert beyond": (lambda x: x.insert("m", at=4), "no position 4"),
    "broadcast": (lambda x: x.broadcast({"s": 3, "d": 8}), r"broadcast: the axis 'b' does not fit"),
    "broadcast size": (
        lambda x: x.broadcast({"b": 2, "s": 6, "d": 8}),
        "the axis 's' does not fit",
    ),
    "concatenate": (lambda x: ops.concatenate([x, x.repeat(b=2)], "s"), "differ in more than 's'"),
    "concatenate types": (
        lambda x: ops.concatenate([x, x.convert("bf16")], "s"),
        "differ in more than 's'",
    ),
    "concatenate nothing": (lambda x: ops.concatenate([], "s"), "the list of tensors is empty"),
    "stack": (lambda x: ops.stack([x, x.repeat(b=2)], "n"), "stack: the shapes differ"),
    "stack onto": (lambda x: ops.stack([x, x], "s"), "already has an axis 's'"),
    "chunk": (lambda x: x.chunk("d", 3), "chunk: 8 elements of 'd' do not make 3 equal parts"),
    "chunk zero": (lambda x: x.chunk("d", 0), "do not make 0 equal parts"),
    "repeat": (lambda x: x.repeat(s=-1), "s=-1 is negative"),
    "reverse": (lambda x: x.reverse("s", "s"), "the axis 's' is named twice"),
    "pad": (lambda x: x.pad(s=(-2, -2)), r"s=\(-2, -2\) cuts more than there is"),
    "roll": (lambda x: x.roll(z=1), "roll: there is no axis 'z'"),
    "diagonal": (lambda x: x.diagonal("s", "d", into="b"), "there is already an axis 'b'"),
    "triangular": (lambda x: x.triangular("s", "s"), "the axis 's' is named twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, pair: Any) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ShapeError, match=message):
        call(pair[0])
