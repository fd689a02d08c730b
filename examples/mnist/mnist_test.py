"""The mnist example: drawn digits are learned, MNIST's files are read, damaged ones are refused."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from examples.mnist import digits, model
from examples.mnist.idx import DataError, read_idx, read_mnist
from examples.mnist.main import main

_FAST = ["--train=3000", "--test=500", "--epochs=6", "--width=64", "--batch=50"]


def _idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def _write_mnist(folder: Path, count: int, packed: bool) -> None:
    for seed, part in enumerate(("train", "t10k")):
        images, labels = digits.render(count, seed)
        files = {"images-idx3": images, "labels-idx1": labels.astype(np.uint8)}
        for name, array in files.items():
            path, data = folder / f"{part}-{name}-ubyte", _idx(array)
            if packed:
                path, data = Path(f"{path}.gz"), gzip.compress(data)
            path.write_bytes(data)


def test_it_learns_drawn_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mnist", *_FAST, "--show=2", "--platform=cpu"]) == 0
    out = capsys.readouterr().out
    assert "hidden: Linear" in out and out.count("recognized as") == 2
    share = float(out.split("accuracy ")[1].split("%")[0])
    assert 85 < share <= 100


def test_drawn_digits_are_a_data_set() -> None:
    images, labels = digits.render(200, 7)
    again, same = digits.render(200, 7)
    assert (images == again).all() and (labels == same).all()
    assert not (images[:50] == digits.render(200, 8)[0][:50]).all()
    assert set(labels) == set(range(10)) and images.shape == (200, 28, 28)
    # No two are alike, and every one has ink and paper.
    assert len({image.tobytes() for image in images}) == 200
    assert (images > 128).mean((1, 2)).min() > 0.02 and (images > 128).mean((1, 2)).max() < 0.5


@pytest.mark.parametrize("packed", [False, True])
def test_it_reads_the_files_of_mnist(
    packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_mnist(tmp_path, 300, packed)
    images, labels = read_mnist(tmp_path, "t10k")
    assert (images == digits.render(300, 1)[0]).all() and labels.dtype == np.int32
    assert main(["mnist", f"--data={tmp_path}", "--epochs=1", "--width=16", "--show=0"]) == 0
    assert "on 300 held-out digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "begins with nothing, expected 00 00 08 03"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "is it another file, or still packed"),
        (bytes([0, 0, 8, 3, 0, 0]), "ends within its header of 16 bytes"),
        (
            _idx(np.zeros((2, 28, 28), np.uint8))[:-1],
            r"says \[2, 28, 28\], 1568 bytes, but 1567 follow",
        ),
    ],
)
def test_damaged_files_are_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(DataError, match=problem):
        read_idx(path, 3)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    for data in (b"no archive", gzip.compress(bytes(100))[:-9]):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.gz: cannot be read: .*fetch it again"):
            read_idx(path, 3)


def test_sets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    _write_mnist(tmp_path, 3, False)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(_idx(np.array([1, 2], np.uint8)))
    with pytest.raises(DataError, match=r"images \[3, 28, 28\] and labels \[2\]"):
        read_mnist(tmp_path, "train")
    labels.write_bytes(_idx(np.array([1, 2, 10], np.uint8)))
    with pytest.raises(DataError, match="has the label 10; expected digits"):
        read_mnist(tmp_path, "train")


@pytest.mark.parametrize(
    ("flags", "code", "problem"),
    [
        (["--data=/nowhere"], 1, "there is no train-images-idx3-ubyte or"),
        (["--epochs=0"], 2, "--help lists the flags"),
        (["--train=10"], 2, "--batch=100 is more than the 10 training digits"),
        (["digits"], 2, "unexpected argument 'digits'"),
        (["--platform=abacus"], 2, "'abacus' is not a platform"),
    ],
)
def test_errors_are_one_line(
    flags: list[str], code: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--train=200", "--test=10", "--epochs=1"]
    assert main(["mnist", *small, *flags]) == code
    error = capsys.readouterr().err
    assert error.startswith("error(mnist): ") and problem in error and error.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mnist", "--help"]) == 0
    assert "--epochs\n" in capsys.readouterr().out


def test_the_gradient_is_that_of_the_loss() -> None:
    """Finite differences along the gradient."""
    import jax
    import jax.numpy as jnp

    import zml

    images, labels = digits.render(20, 0)
    x = zml.Tensor(images.reshape(20, -1).astype(np.float32) / 255, ("b", "pixel"))
    y = zml.Tensor(labels, ("b",))
    net = model.start(model.Net.init(zml.io.View.blank("f32"), 8), 0)
    value, gradient = zml.ops.value_and_grad(model.loss)(net, x, y)
    moved = jax.tree.map(lambda w, g: w - 1e-3 * g, net, gradient)
    fall = sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(gradient)) * 1e-3
    assert (value - model.loss(moved, x, y)).value == pytest.approx(fall, rel=0.05)
