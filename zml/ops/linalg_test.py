from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from zml import ops
from zml.errors import ShapeError
from zml.ops._testing import check, draw
from zml.tensor import Tensor


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "c64", "i32"])
def test_dot_over_one_axis(dtype: str) -> None:
    (x, a), (w, b) = draw(0, dtype, s=3, d=5), draw(1, dtype, o=7, d=5)
    check(x.dot(w, "d"), a @ b.T, "s o", dtype)


def test_dot_with_batch_axes_and_several_sums() -> None:
    q, a = draw(0, b=2, q=3, h=4, hd=5)
    k, c = draw(1, h=4, k=6, b=2, hd=5)
    check(q.dot(k, "hd"), np.einsum("bqhd,hkbd->bhqk", a, c), "b h q k", "f32")
    check(q.dot(k, "hd", "h"), np.einsum("bqhd,hkbd->bqk", a, c), "b q k", "f32")
    check(q.dot(k, "hd", "h", "b"), np.einsum("bqhd,hkbd->qk", a, c), "q k", "f32")
    check(q.dot(q, "b", "q", "h", "hd"), (a * a).sum(), "", "f32")


def test_dot_of_nothing_and_outer() -> None:
    check(draw(0, s=2, d=0)[0].dot(draw(1, d=0, o=3)[0], "d"), np.zeros((2, 3)), "s o", "f32")
    (x, a), (y, b) = draw(0, s=3), draw(1, t=4)
    check(x.outer(y), np.outer(a, b), "s t", "f32")
    check(x.outer(x), a * a, "s", "f32")
    z, c = draw(2, "i2", 0, 1, s=3, u=2)
    check(x.convert("i2").outer(z).convert("i32"), np.trunc(a)[:, None] * c, "s u", "i32")
    check(ops.outer(draw(2)[0], y), draw(2)[1] * b, "t", "f32")


def test_dot_into_a_wider_type() -> None:
    (x, a), (w, b) = draw(0, "i8", -127, 127, s=3, d=50), draw(1, "i8", -127, 127, d=50, o=2)
    check(x.dot(w, "d", dtype="i32"), a @ b, "s o", "i32")
    (x, a), (w, b) = draw(0, "bf16", s=3, d=50), draw(1, "bf16", d=50, o=2)
    check(x.dot(w, "d", dtype="f32"), a @ b, "s o", "f32")
    for dtype in ("i4", "u4", "i2", "f4e2m1fn", "f8e4m3fn", "f8e5m2"):
        (x, a), (w, b) = draw(0, dtype, 0, 1, s=3, d=5), draw(1, dtype, 0, 1, d=5, o=2)
        check(x.dot(w, "d", dtype="f32"), a @ b, "s o", "f32")
    with pytest.raises(ShapeError, match=r'f4e2m1fn is too narrow for the sums.*dtype="f32"'):
        draw(0, "f4e2m1fn", d=2)[0].dot(draw(0, "f4e2m1fn", d=2)[0], "d")


def test_gradients_of_products() -> None:
    (x, a), (w, b) = draw(0, s=3, h=2, d=5), draw(1, h=2, d=5)
    gx, gw = jax.grad(lambda x, w: x.dot(w, "d").sum().value, (0, 1))(x, w)
    check(gx, np.broadcast_to(b, a.shape), "s h d", "f32")
    check(gw, a.sum(0), "h d", "f32")


def _correlate(a: Any, k: Any, stride: int, dilation: int) -> Any:
    """a [c, t], k [o, c, w]."""
    span = (k.shape[2] - 1) * dilation + 1
    starts = range(0, a.shape[1] - span + 1, stride)
    return np.stack([np.einsum("cw,ocw->o", a[:, t : t + span : dilation], k) for t in starts], -1)


@pytest.mark.parametrize(
    ("stride", "dilation", "padding"), [(1, 1, 0), (2, 1, (1, 2)), (3, 2, 2), (1, 2, "same")]
)
def test_conv1d(stride: int, dilation: int, padding: Any) -> None:
    x, a = draw(0, t=11, b=2, c=3)
    kernel, k = draw(1, w=3, o=4, c=3)
    y = x.conv1d(
        kernel, "t", "w", channel="c", out="o", stride=stride, dilation=dilation, padding=padding
    )
    low, high = {0: (0, 0), 2: (2, 2), "same": (dilation, dilation)}.get(padding, padding)
    moved = np.pad(a.transpose(1, 2, 0), ((0, 0), (0, 0), (low, high)))
    expected = np.stack([_correlate(row, k.transpose(1, 2, 0), stride, dilation) for row in moved])
    check(y, expected.transpose(2, 0, 1), "t b o", "f32")


def test_conv1d_in_groups_without_a_batch() -> None:
    (x, a), (kernel, k) = draw(0, c=4, t=6), draw(1, o=6, c=2, w=2)
    y = x.conv1d(kernel, "t", "w", channel="c", out="o", groups=2)
    halves = [_correlate(a[2 * g : 2 * g + 2], k[3 * g : 3 * g + 3], 1, 1) for g in range(2)]
    check(y, np.concatenate(halves), "o t", "f32")
    empty = draw(0, b=0, c=4, t=6)[0].conv1d(kernel, "t", "w", channel="c", out="o", groups=2)
    check(empty, np.zeros((0, 6, 5)), "b o t", "f32")


def test_conv2d() -> None:
    (x, a), (kernel, k) = draw(0, b=2, h=5, w=6, c=3), draw(1, i=2, j=3, c=3, o=4)
    y = x.conv2d(
        kernel, ("h", "w"), ("i", "j"), channel="c", out="o", stride=(1, 2), padding=(0, (1, 0))
    )
    padded = np.pad(a, ((0, 0), (0, 0), (1, 0), (0, 0)))
    expected = np.stack(
        [
            [np.einsum("bijc,ijco->bo", padded[:, r : r + 2, c : c + 3], k) for c in range(0, 5, 2)]
            for r in range(4)
        ]
    )
    check(y, expected.transpose(2, 0, 1, 3), "b h w o", "f32")


def test_cholesky_and_triangular_solve() -> None:
    _, a = draw(0, n=4, b=2, m=4)
    positive = np.einsum("ibk,jbk->bij", a, a) + np.eye(4)
    matrix = Tensor(positive.transpose(1, 0, 2).astype(np.float32), ("i", "b", "j"))
    lower = np.linalg.cholesky(positive)
    check(matrix.cholesky("i", "j"), lower.transpose(1, 0, 2), "i b j", "f32")
    rhs, c = draw(1, k=3, i=4, b=2)
    y = matrix.cholesky("i", "j").triangular_solve(rhs, "i", "j")
    check(y, np.linalg.solve(lower, c.transpose(2, 1, 0)).transpose(2, 1, 0), "k j b", "f32")
    upper = matrix.cholesky("i", "j").rename(i="j", j="i")
    y = upper.triangular_solve(rhs.choose(k=0), "i", "j", lower=False)
    expected = np.linalg.solve(lower.transpose(0, 2, 1), c[0].T[..., None])[..., 0]
    check(y, expected.T, "j b", "f32")
    assert bool((-matrix).cholesky("i", "j").is_nan().any("i", "j").all())
    assert (
        draw(0, i=0, j=0)[0].cholesky("i", "j").triangular_solve(draw(1, i=0)[0], "i", "j").count
        == 0
    )


def test_factors_of_complex_matrices_and_gradients() -> None:
    _, a = draw(0, "c64", i=5, j=5)
    positive = a @ a.conj().T + np.eye(5)
    x = Tensor(positive.astype(np.complex64), ("i", "j"))
    factor = x.cholesky("i", "j")
    np.testing.assert_allclose(factor.value, np.linalg.cholesky(positive), rtol=1e-4, atol=1e-4)
    rhs, b = draw(1, "c64", i=5)
    np.testing.assert_allclose(
        factor.triangular_solve(rhs, "i", "j").value,
        np.linalg.solve(np.linalg.cholesky(positive), b),
        rtol=1e-3,
    )
    # The gradient of log det x = 2 sum(log(diagonal of L)) is the inverse; L is read from one side, which has it twice.
    y = Tensor(positive.real.astype(np.float32), ("i", "j"))
    gradient = ops.grad(
        lambda y: y.cholesky("i", "j").diagonal("i", "j", into="d").log().sum() * 2
    )(y)
    inverse = np.linalg.inv(positive.real)
    expected = np.tril(2 * inverse) - np.diag(np.diag(inverse))
    np.testing.assert_allclose(gradient.value, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [6, 7])
def test_fourier_transforms(size: int) -> None:
    x, a = draw(0, "c64", s=size, b=3)
    check(x.fft("s"), np.fft.fft(a, axis=0), "s b", "c64")
    check(x.fft("s", "b").ifft("b", "s"), a, "s b", "c64")
    y, c = draw(1, s=size, b=3)
    check(y.rfft("s"), np.fft.rfft(c, axis=0), "s b", "c64")
    check(y.rfft("s").irfft("s", size), c, "s b", "f32")


REFUSED: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "no axis": (lambda x, w: x.dot(w), r"dot: no axis is named; given \{s=3,d=5,f32\} and \{d=5,o=2,f32\}"),
    "not in the first": (lambda x, w: x.dot(w, "o"), "the first operand has no axis 'o'"),
    "not in the second": (lambda x, w: x.dot(w, "s"), "the second operand has no axis 's'"),
    "sizes": (lambda x, w: x.dot(w.repeat(d=2), "d"), "the axis 'd' has 5 and 10 elements"),
    "batch sizes": (lambda x, w: x.dot(w.rename(o="s"), "d"), "'s' has 3 and 2 elements.*batch axis: use rename"),
    "types": (lambda x, w: x.dot(w.convert("bf16"), "d"), "dot: the element types differ"),
    "twice": (lambda x, w: x.dot(w, "d", "d"), "the axis 'd' is named twice"),
    "no tensor": (lambda x, w: x.dot(w.value, "d"), "dot: an operand is a ArrayImpl, expected a Tensor"),
    "kernel": (
        lambda x, w: x.conv1d(w, "s", "d", channel="d", out="o"), r"the kernel needs exactly the axes \['o', 'd', 'd'\]"
    ),
    "channels": (
        lambda x, w: x.conv1d(w.rename(d="w").insert("d"), "s", "w", channel="d", out="o"), "5 channels do not meet 1"
    ),
    "narrow solve": (lambda x, w: x.convert("bf16").cholesky("s", "d"), "bf16 is too narrow"),
    "not square": (lambda x, w: x.cholesky("s", "d"), "the matrix must be square"),
    "outer": (lambda x, w: x.outer(w.repeat(d=2)), "outer: the axis 'd' has 5 and 10 elements"),
    "real fft": (lambda x, w: x.fft("s"), "fft: it is defined for complex elements, not f32"),
    "narrow fft": (lambda x, w: x.convert("bf16").rfft("s"), "bf16 is too narrow"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ShapeError, match=message):
        call(draw(0, s=3, d=5)[0], draw(1, d=5, o=2)[0])
