from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zml.declared import Repeat, Source
from zml.dtypes import DType
from zml.errors import CheckpointError, ShapeError
from zml.io import View
from zml.shape import Shape
from zml.tensor import Tensor
from zml.testing import files

_BLANK = View.blank("f32")


def _view(folder: Path, dtype: Any = None) -> View:
    arrays: dict[str, np.ndarray] = {
        "a.0.w": np.zeros((6, 4), np.float16),
        "a.1.w": np.zeros((6, 4), np.float32),
        "n": np.zeros(3, np.int32),
    }
    return files.store(folder, arrays).view(dtype)


def test_a_name_is_put_together_from_its_levels(tmp_path: Path) -> None:
    view = _view(tmp_path)
    for inner in (view.prefix("a").layer(1), view.prefix("a.1"), view.prefix("a").prefix("1")):
        assert inner.tensor("w", {"x": 6, "y": 4}).source == Source("a.1.w", (6, 4))
    assert view.prefix("a").tensor("0.w", {"x": 6, "y": 4}).source == Source("a.0.w", (6, 4))
    assert view.has("n") and view.prefix("a").layer(0).has("w")
    assert not view.has("a") and not view.prefix("a").has("w")


def test_tags_alone_take_the_dims_of_the_checkpoint(tmp_path: Path) -> None:
    x = _view(tmp_path).prefix("a.0").tensor("w", ("x", "y"), y="model")
    assert x.shape == Shape({"x": 6, "y": 4}, "f16", {"y": "model"})
    assert x.is_declared and x.source == Source("a.0.w", (6, 4))


@pytest.mark.parametrize(
    ("name", "tags", "said"),
    [
        ("b", ("x", "y"), r"there is no tensor 'a\.b' to take the dims of \['x', 'y'\] from"),
        ("0.w", ("x",), r"'a\.0\.w' is \[6, 4\], which cannot have the tags \['x'\]"),
        ("0.w", (), r"give one tag for each axis"),
    ],
)
def test_tags_alone_must_fit(name: str, tags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said) as error:
        _view(tmp_path).prefix("a").tensor(name, tags)
    assert str(error.value).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    ("view_dtype", "dtype", "expected"),
    [(None, None, "f16"), ("bf16", None, "bf16"), ("bf16", "i8", "i8"), (None, "i8", "i8")],
)
def test_the_tensors_own_dtype_goes_before_the_views_and_that_before_the_stored_one(
    view_dtype: str | None, dtype: str | None, expected: str, tmp_path: Path
) -> None:
    x = _view(tmp_path, view_dtype).tensor("a.0.w", {"x": 6, "y": 4}, dtype=dtype)
    assert x.dtype == expected


def test_what_the_checkpoint_lacks_is_declared_all_the_same(tmp_path: Path) -> None:
    assert _view(tmp_path).tensor("none", {"x": 5}).shape == Shape({"x": 5}, "f32")
    assert _view(tmp_path).tensor("a.0.w", {"x": 5}).source == Source("a.0.w", (5,))


def test_a_blank_view_has_every_tensor_and_none() -> None:
    x = View.blank(DType.BF16).prefix("a").tensor("w", {"d": 8}, d="model")
    assert x.shape == Shape({"d": 8}, "bf16", {"d": "model"}) and x.source == Source("a.w", (8,))
    assert not _BLANK.has("w")
    with pytest.raises(CheckpointError, match="no checkpoint: there is no tensor 'w'"):
        _BLANK.tensor("w", ("d",))


def test_a_stored_shape_has_as_many_elements() -> None:
    x = _BLANK.tensor("w", {"h": 4, "hd": 6, "d": 5}, stored=(24, 5))
    assert x.source == Source("w", (24, 5)) and x.shape.dims == (4, 6, 5)
    assert _BLANK.tensor("s", {"one": 1}, stored=()).source == Source("s", ())
    with pytest.raises(ShapeError, match=r"w: .* cannot be made from \[24, 6\]: 120 .* 144 are"):
        _BLANK.tensor("w", {"h": 4, "hd": 6, "d": 5}, stored=(24, 6))


def test_repeats_are_not_stored() -> None:
    repeat = Repeat("h", 3)
    plain = _BLANK.tensor("w", {"hd": 2, "h": 6}, repeat=repeat)
    assert plain.source == Source("w", (2, 2), repeat) and plain.shape.dims == (2, 6)
    merged = _BLANK.tensor("w", {"h": 6, "hd": 2, "d": 5}, stored=(4, 5), repeat=repeat)
    assert merged.source == Source("w", (4, 5), repeat)


@pytest.mark.parametrize("repeat", [Repeat("h", 4), Repeat("x", 2), Repeat("h", 0)])
def test_a_repeat_that_does_not_fit_is_refused(repeat: Repeat) -> None:
    with pytest.raises(ShapeError, match=r"w: Repeat\(.*\) does not fit {'h': 6, 'd': 5"):
        _BLANK.tensor("w", {"h": 6, "d": 5}, repeat=repeat)


def test_a_declared_tensor_keeps_its_source_through_what_is_still_to_be_said_of_it() -> None:
    x: Tensor = _BLANK.tensor("w", {"d": 8})
    for y in (x.partitioned(d="model"), x.in_memory("pinned_host")):
        assert y.is_declared and y.source == x.source
    assert x.in_memory("pinned_host").memory == "pinned_host" and x.memory is None
