"""The mnist example: train with JAX, put the weights on a platform, compile, classify digits that were held out."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from examples.command import open_platform, parse, run, users_path
from zml.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

_USAGE = """\
Trains a two-layer net on digits with JAX, then classifies others with a compiled program.

  mnist                      digits that this program draws, no download
  mnist --data=/data/mnist   the MNIST files, as published (.gz or unpacked)
"""


def define() -> flags.FlagValues:
    """The flags."""
    values = flags.FlagValues()
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text("data", None, "Folder with the MNIST files. Default: drawn digits.", flag_values=values)
    text("platform", "auto", "What classifies: auto, cpu, cuda, ...", flag_values=values)
    number("train", 12000, "How many digits to draw for training.", 1, flag_values=values)
    number("test", 2000, "How many digits to draw for the test.", 1, flag_values=values)
    number("epochs", 6, "How often each training digit is seen.", 1, flag_values=values)
    number("batch", 100, "Digits in a training step.", 1, flag_values=values)
    number("width", 128, "Neurons of the hidden layer.", 1, flag_values=values)
    number("show", 4, "How many of the held-out digits to print.", 0, flag_values=values)
    number("seed", 0, "Of digits, weights and the order of training.", 0, flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    return run("mnist", _main, argv)


def _main(argv: Sequence[str]) -> None:
    options = define()
    if parse(options, argv, _USAGE):
        accuracy(options)


def accuracy(options: flags.FlagValues) -> float:
    """Trains, classifies, prints; the share of held-out digits that were recognized."""
    # Here and not above: these import jax, which --help need not wait for.
    import numpy as np

    import zml
    from examples.mnist import digits, model

    (train_images, train_labels), (images, labels) = _data(options)
    if options.batch > len(train_labels):
        raise UsageError(
            f"--batch={options.batch} is more than the {len(train_labels)} training digits; give a smaller one"
        )

    # The net as data: first shapes alone, then the same dataclass with values.
    declared = model.Net.init(zml.io.View.blank("f32"), options.width)
    print(declared)
    net = model.train(
        model.start(declared, options.seed), _flat(train_images), train_labels,
        options.epochs, options.batch, options.seed,
        lambda epoch, loss: print(f"epoch {epoch + 1}: loss {loss:.3f}"),
    )  # fmt: skip

    # From here on JAX's own devices are not used: the platform has the weights and runs the program.
    platform = open_platform(options.platform)
    batch = zml.Tensor.declare({"b": len(images), "pixel": model.PIXELS}, "f32")
    exe = platform.compile(model.Net.forward, declared, batch)
    classify = exe.bake(platform.put_tree(net))

    began = time.perf_counter()
    scores = classify(platform.put(_flat(images), ("b", "pixel"))).numpy()
    seconds = time.perf_counter() - began
    given = scores.argmax(1)
    for place in range(min(options.show, len(images))):
        print("\n".join(digits.ascii_art(images[place])))
        print(f"is {labels[place]}, recognized as {given[place]}\n")
    share = float(np.mean(given == labels))
    print(
        f"accuracy {share:.2%} on {len(labels)} held-out digits, classified in {1000 * seconds:.1f} ms"
    )
    return share


type Set = "tuple[np.ndarray, np.ndarray]"


def _data(options: flags.FlagValues) -> "tuple[Set, Set]":
    if options.data is None:
        from examples.mnist.digits import render

        # Seeds that differ: no held-out digit was trained on.
        return render(options.train, 2 * options.seed), render(options.test, 2 * options.seed + 1)
    from examples.mnist.idx import read_mnist

    folder = users_path(options.data)
    return read_mnist(folder, "train"), read_mnist(folder, "t10k")


def _flat(images: "np.ndarray") -> "np.ndarray":
    """[n, 28, 28] bytes -> [n, 784] floats from 0 to 1."""
    return images.reshape(len(images), -1).astype("float32") / 255


if __name__ == "__main__":
    sys.exit(main(sys.argv))
