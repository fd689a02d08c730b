import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from zml.declared import Derived, Repeat, Source
from zml.dtypes import DType
from zml.errors import ShapeError
from zml.io.safetensors import Entry
from zml.io.view import View
from zml.nn import Embedding, Linear
from zml.shape import REPLICATED, Shape
from zml.tensor import Tensor

_VIEW = View.blank("f32")
_TOLERANCE = {"f32": 1e-5, "bf16": 3e-2, "f16": 4e-3}


def _draw(dtype: str = "f32", /, **dims: int) -> Tensor:
    values = np.random.default_rng().standard_normal(tuple(dims.values())).astype(np.float32)
    return Tensor(values, dims).convert(dtype)


def _wide(x: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(x.value).astype(np.float64)


def _close(got: Tensor, expected: Any, dtype: str) -> None:
    tolerance = _TOLERANCE[dtype]
    # NaN is never equal.
    np.testing.assert_allclose(
        _wide(got), expected, rtol=tolerance, atol=tolerance, equal_nan=False
    )


@pytest.mark.parametrize(
    ("dtype", "bias"), [("f32", False), ("f32", True), ("bf16", True), ("f16", False)]
)
@pytest.mark.parametrize(
    ("out", "inner"),
    [
        ({"f": 5}, {"d": 7}),
        ({"h": 3, "hd": 5}, {"d": 7}),
        ({"d": 7}, {"h": 3, "hd": 5}),
        ({"a": 1, "c": 3}, {"h": 2, "hd": 3}),
    ],
)
@pytest.mark.parametrize("rest", [{}, {"b": 2, "s": 3}])
def test_linear_against_float64(
    out: Mapping[str, int],
    inner: Mapping[str, int],
    rest: Mapping[str, int],
    bias: bool,
    dtype: str,
) -> None:
    weight, shift = _draw(dtype, **out, **inner), _draw(dtype, **out) if bias else None
    x = _draw(dtype, **rest, **inner)
    got = Linear(weight, shift, tuple(inner))(x)
    assert got.tags == (*rest, *out)
    assert got.dtype == dtype
    # Both with the inner axes last, as one.
    rows, columns = (_wide(t).reshape(-1, math.prod(inner.values())) for t in (x, weight))
    expected = (rows @ columns.T).reshape(got.value.shape)
    _close(got, expected + (0 if shift is None else _wide(shift)), dtype)


def test_the_order_of_the_input_axes_does_not_matter() -> None:
    weight, x = _draw(d=7, h=3, hd=5), _draw(s=4, h=3, hd=5)
    linear = Linear(weight, None, ("h", "hd"))
    got = linear(x.transpose("hd", "s", "h"))
    _close(got, _wide(linear(x)), "f32")


def test_declared_as_checkpoints_store_it() -> None:
    q = Linear.init(_VIEW.prefix("q_proj"), {"h": 8, "hd": 16}, {"d": 32}, bias=True, h="model")
    assert str(q.weight.shape) == "{h=8/model,hd=16,d=32,f32}"
    assert (
        isinstance(q.weight, Tensor)
        and isinstance(q.weight.source, Source)
        and q.weight.source.name == "q_proj.weight"
    )
    assert q.weight.source.dims == (128, 32)
    assert q.bias is not None and str(q.bias.shape) == "{h=8/model,hd=16,f32}"
    assert isinstance(q.bias.source, Source) and q.bias.source.dims == (128,)
    o = Linear.init(
        _VIEW.prefix("o_proj"), {"d": 32}, {"h": 8, "hd": 16}, bias=True, h="model", d=REPLICATED
    )
    assert str(o.weight.shape) == "{d=32/-,h=8/model,hd=16,f32}"
    assert o.bias is not None and str(o.bias.shape) == "{d=32/-,f32}"
    assert Linear.init(_VIEW, {"f": 2}, {"d": 3}).bias is None


def test_8_bit_floats_with_scales_beside_them_are_dequantized() -> None:
    file: Any = "model.safetensors"
    entries = {
        "q.weight": Entry(file, "F8_E4M3", (12, 8), 0, 96),
        "q.weight_scale_inv": Entry(file, "F32", (1, 1), 96, 100),
        "q.bias": Entry(file, "BF16", (12,), 100, 124),
    }
    view = View("here", entries, DType.BF16).prefix("q")
    layer = Linear.init(view, {"h": 3, "hd": 4}, {"d": 8}, bias=True, h="model")
    assert isinstance(layer.weight, Tensor) and isinstance(layer.weight.source, Derived)
    assert layer.weight.shape == Shape({"h": 3, "hd": 4, "d": 8}, "bf16", {"h": "model"})
    assert layer.bias is not None and isinstance(layer.bias.source, Source)
    x = _draw("bf16", b=2, d=8)
    made = Linear(_draw("bf16", **dict(layer.weight.shape.items())), None, layer.inner)(x)
    assert made.tags == ("b", "h", "hd")


def test_repeated_heads_are_stored_once() -> None:
    k = Linear.init(_VIEW, {"h": 8, "hd": 4}, {"d": 6}, bias=True, repeat=Repeat("h", 2), h="model")
    assert k.weight.dim("h") == 8 and isinstance(k.weight, Tensor)
    for x, stored in ((k.weight, (16, 6)), (k.bias, (16,))):
        assert x is not None and isinstance(x.source, Source)
        assert x.source.dims == stored
        assert x.source.repeat == Repeat("h", 2)


@pytest.mark.parametrize(
    ("out", "inner", "repeat", "said"),
    [
        ({"d": 4}, {"d": 4}, None, "['d'] stand on both sides"),
        ({"f": 4}, {}, None, "there is no inner axis"),
        ({"h": 9, "hd": 4}, {"d": 4}, Repeat("h", 2), "does not fit {'h': 9, 'hd': 4}"),
        ({"f": 9}, {"d": 4}, Repeat("h", 2), "expected an axis 'h' there"),
        ({"f": 9}, {"d": 4}, Repeat("f", 0), "does not fit"),
    ],
)
def test_what_cannot_be_declared_is_refused(
    out: Mapping[str, int], inner: Mapping[str, int], repeat: Repeat | None, said: str
) -> None:
    with pytest.raises(ShapeError, match=re.escape(said)):
        Linear.init(_VIEW, out, inner, repeat=repeat)


def test_inputs_that_do_not_fit_are_refused() -> None:
    linear = Linear(_draw(f=5, d=7), None, ("d",))
    with pytest.raises(ShapeError, match=r"already has the axes \['f'\].*\{f=2,d=7,f32\}"):
        linear(_draw(f=2, d=7))
    with pytest.raises(ShapeError, match="no axis 'd'"):
        linear(_draw(s=2, e=7))
    with pytest.raises(ShapeError, match="element types differ"):
        linear(_draw("bf16", s=2, d=7))


@pytest.mark.parametrize("dims", [{}, {"s": 5}, {"b": 2, "s": 3}])
@pytest.mark.parametrize("kind", ["int32", "uint8"])
def test_embedding_takes_rows(dims: Mapping[str, int], kind: str) -> None:
    table = _draw(voc=11, d=6)
    tokens = np.random.default_rng().integers(0, 11, tuple(dims.values())).astype(kind)
    got = Embedding(table)(Tensor(np.asarray(tokens), dims))
    assert got.tags == (*dims, "d")
    np.testing.assert_array_equal(got.value, np.asarray(table.value)[tokens])


def test_a_token_outside_the_vocabulary_reads_nothing_else() -> None:
    table = _draw(voc=11, d=6)
    got = Embedding(table)(Tensor(np.array([-1, 11], np.int32), ("s",)))
    np.testing.assert_array_equal(got.value, np.asarray(table.value)[[0, 10]])


@pytest.mark.parametrize("dtype", _TOLERANCE)
def test_tied_logits_are_f32(dtype: str) -> None:
    table, x = _draw(dtype, voc=11, d=6), _draw(dtype, b=2, d=6)
    got = Embedding(table).attend(x)
    assert (got.tags, got.dtype) == (("b", "voc"), "f32")
    _close(got, _wide(x) @ _wide(table).T, "f32")


def test_embedding_is_declared_with_its_partitioning() -> None:
    embedding = Embedding.init(_VIEW.prefix("embed_tokens"), 11, 6, voc="model")
    assert str(embedding.weight.shape) == "{voc=11/model,d=6,f32}"
    assert embedding.weight.source is not None
    assert embedding.weight.source.name == "embed_tokens.weight"


def test_tokens_with_an_axis_of_the_table_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\{d=3,i32\} have the axes \['d'\]"):
        Embedding(_draw(voc=11, d=6))(Tensor(np.zeros(3, np.int32), ("d",)))
