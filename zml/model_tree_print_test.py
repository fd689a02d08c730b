"""How a model prints: equal neighbours of a list are one line, which says that its size is that of each."""

from zml.io import View
from zml.model_tree import model
from zml.tensor import Tensor


@model
class _Part:
    weight: Tensor


@model
class _Whole:
    vectors: list[Tensor]
    parts: list[_Part]


def test_equal_neighbours_share_a_line() -> None:
    view = View.blank("f32")
    vectors = [view.tensor(name, {"d": 4}) for name in "abc"]
    assert str(_Whole(vectors, [_Part(vectors[0])] * 2)).splitlines() == [
        "_Whole: 20 elements, 80B",
        "├─ vectors 48B",
        "│  └─ [0..2] {d=4,f32} 16B each",
        "└─ parts 32B",
        "   └─ [0..1]: _Part 16B each",
        "      └─ weight {d=4,f32} 16B",
    ]
