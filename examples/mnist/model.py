"""The net, and how it is trained: the same `forward` is differentiated by JAX here and compiled by a platform later."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import zml
from zml.nn import Linear
from zml.ops import random

PIXELS = 28 * 28
DIGITS = 10


@zml.model
class Net:
    """Two layers: images {b, pixel} from 0 to 1 -> a score for each digit {b, digit}."""

    hidden: Linear
    output: Linear

    @staticmethod
    def init(view: zml.io.View, width: int) -> "Net":
        """Declares the weights: shapes and names, no data."""
        return Net(
            Linear.init(view.prefix("hidden"), {"h": width}, {"pixel": PIXELS}, bias=True),
            Linear.init(view.prefix("output"), {"digit": DIGITS}, {"h": width}, bias=True),
        )

    def forward(self, images: zml.Tensor) -> zml.Tensor:
        """Scores: the higher, the likelier."""
        return self.output(self.hidden(images).relu())


def loss(net: Net, images: zml.Tensor, labels: zml.Tensor) -> zml.Tensor:
    """The mean negative log-likelihood of labels {b} (i32)."""
    likelihood = net.forward(images).log_softmax("digit").gather(digit=labels)
    return -likelihood.mean("b")


def start(declared: Net, seed: int) -> Net:
    """Random weights (He et al., arXiv:1502.01852), biases of 0."""
    state = random.State.init(seed)

    def draw(spec: jax.ShapeDtypeStruct) -> jax.Array:
        nonlocal state
        if len(spec.shape) == 1:
            return jnp.zeros(spec.shape, spec.dtype)
        rows, columns = spec.shape
        state, normal = random.normal(state, {"row": rows, "column": columns})
        return normal.value * np.float32(np.sqrt(2 / columns))

    # A Tensor is a pytree around its array, so JAX's functions see a net as a tree of arrays.
    return jax.tree.map(draw, declared)


def train(
    net: Net, images: np.ndarray, labels: np.ndarray, epochs: int, batch: int, seed: int,
    report: Callable[[int, float], None],
) -> Net:  # fmt: skip
    """Adam (Kingma & Ba, arXiv:1412.6980) over images [n, 784] and labels [n]; `report` gets each epoch's loss."""
    moments = jax.tree.map(jnp.zeros_like, (net, net))
    rng, number = np.random.default_rng(seed), 0
    for epoch in range(epochs):
        losses = []
        order = rng.permutation(len(images))
        for first in range(0, len(order) - batch + 1, batch):
            chosen = order[first : first + batch]
            number += 1
            x, y = zml.Tensor(images[chosen], ("b", "pixel")), zml.Tensor(labels[chosen], ("b",))
            net, moments, value = _step(net, moments, x, y, number)
            losses.append(value)
        report(epoch, float(np.mean(losses)))
    return net


@jax.jit
def _step(
    net: Net, moments: tuple[Net, Net], images: zml.Tensor, labels: zml.Tensor, number: int
) -> tuple[Net, tuple[Net, Net], jax.Array]:
    value, gradient = zml.ops.value_and_grad(loss)(net, images, labels)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    second = jax.tree.map(lambda m, g: 0.999 * m + 0.001 * g * g, moments[1], gradient)
    a, b = 1 - 0.9**number, 1 - 0.999**number

    def move(w: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return w - 1e-3 * (m / a) / (jnp.sqrt(v / b) + 1e-8)

    return jax.tree.map(move, net, first, second), (first, second), value.value
