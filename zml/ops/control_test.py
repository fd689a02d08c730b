from typing import Any

import jax
import numpy as np
import pytest

from zml import ops
from zml.errors import ShapeError
from zml.ops._testing import check, draw
from zml.tensor import Tensor


def _int(value: int) -> Tensor:
    return ops.constant(value, {}, "i32")


def test_while_carries_any_pytree() -> None:
    x, a = draw(0, s=3)

    def double(carry: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"i": carry["i"] + 1, "x": carry["x"] * 2}

    result = jax.jit(lambda x: ops.while_(lambda c: c["i"] < 5, double, {"i": _int(0), "x": x}))(x)
    check(result["x"], a * 32, "s", "f32")
    # The partitioning of the start is kept.
    y = x.partitioned(s="model")
    assert str(ops.while_(lambda c: (c < 9).all(), lambda c: y * y + 9, x).shape) == "{s=3,f32}"


@pytest.mark.parametrize("choice", [True, False])
def test_cond_runs_one_side(choice: bool) -> None:
    (x, a), (y, b) = draw(0, s=3), draw(1, s=3)
    result = ops.cond(
        ops.constant(choice, {}, "bool"), lambda x, y: x + y, lambda x, y: x * y, x, y
    )
    check(result, a + b if choice else a * b, "s", "f32")


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_takes_the_tag_away_and_puts_it_first(reverse: bool) -> None:
    x, a = draw(0, d=2, layer=4)
    w, b = draw(1, layer=4)

    def step(carry: Tensor, xs: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        row, weight = xs
        assert (row.tags, weight.tags) == (("d",), ())
        carry = carry + row * weight
        return carry, {"sum": carry}

    last, rows = ops.scan(step, ops.zeros({"d": 2}, "f32"), (x, w), "layer", reverse=reverse)
    terms = (a * b).T
    sums = terms[::-1].cumsum(0)[::-1] if reverse else terms.cumsum(0)
    check(rows["sum"], sums, "layer d", "f32")
    check(last, terms.sum(0), "d", "f32")
    gradient = jax.grad(
        lambda w: ops.scan(step, ops.zeros({"d": 2}, "f32"), (x, w), "layer")[0].sum().value
    )(w)
    check(gradient, a.sum(0), "layer", "f32")


def test_reduce_folds_with_any_function() -> None:
    x, a = draw(0, s=3, d=4, b=2)
    worst = ops.reduce(
        x, ops.constant(0.0, {}, "f32"), lambda p, q: ops.maximum(p.abs(), q.abs()), "s", "b"
    )
    check(worst, np.abs(a).max((0, 2)), "d", "f32")


def test_barrier_and_print(capfd: pytest.CaptureFixture[str]) -> None:
    x, a = draw(0, "i32", s=3)
    tree = ops.optimization_barrier({"x": x, "y": x + 1})
    check(tree["y"], a + 1, "s", "i32")
    y = jax.jit(lambda x: ops.debug_print(x, "after {norm}") * 2)(x)
    jax.effects_barrier()
    check(y, a * 2, "s", "i32")
    assert capfd.readouterr().out == f"after {{norm}}: {{s=3,i32}} {a}\n"


def test_refused() -> None:
    x = draw(0, s=3)[0]
    yes = ops.constant(True, {}, "bool")
    with pytest.raises(
        ShapeError, match=r"while_: the condition is no bool of rank 0; given \{s=3,bool\}"
    ):
        ops.while_(lambda c: c > 0, lambda c: c, x)
    with pytest.raises(
        ShapeError, match=r"while_: the body's result has a tensor \{s=6,f32\} where \{s=3,f32\}"
    ):
        ops.while_(lambda c: yes, lambda c: c.repeat(s=2), x)
    with pytest.raises(
        ShapeError, match=r"if_false has a tensor \{t=3,f32\} where \{s=3,f32\} is expected"
    ):
        ops.cond(yes, lambda x: x, lambda x: x.rename(s="t"), x)
    with pytest.raises(ShapeError, match="cond: the result of if_false has the structure"):
        ops.cond(yes, lambda x: (x,), lambda x: [x], x)
    with pytest.raises(ShapeError, match="scan: there must be tensors, of one dim along 's'"):
        ops.scan(lambda c, x: (c, x), x, (x, x.repeat(s=2)), "s")
    with pytest.raises(ShapeError, match="has no axis 'z'"):
        ops.scan(lambda c, x: (c, x), x, x, "z")
    with pytest.raises(ShapeError, match="scan: the next carry has a tensor"):
        ops.scan(lambda c, x: (c.insert("b"), x), x, x, "s")
    with pytest.raises(ShapeError, match="reduce: the start is no element"):
        ops.reduce(x, x, ops.add, "s")

    def grows(c: Any, row: Any) -> Any:
        return c, row.insert("s")

    with pytest.raises(ShapeError, match=r"the tag 's' comes twice in \['s', 's'\]"):
        ops.scan(grows, _int(0), x, "s")
