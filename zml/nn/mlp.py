"""The gated feed-forward layer, and the activations that config.json names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from zml.errors import UnsupportedError
from zml.io.view import View
from zml.model_tree import model, static
from zml.nn.linear import Linear, project
from zml.nn.product import gated_product
from zml.ops import gelu, relu, sigmoid, silu, tanh
from zml.shape import AxisPartition
from zml.tensor import Tensor

_tanh_gelu = partial(gelu, approximate=True)

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "gelu": gelu,
        "gelu_fast": _tanh_gelu,
        "gelu_new": _tanh_gelu,
        "gelu_python": gelu,
        "gelu_pytorch_tanh": _tanh_gelu,
        "quick_gelu": lambda x: x * sigmoid(x * 1.702),
        "relu": relu,
        "relu2": lambda x: relu(x).square(),
        "sigmoid": sigmoid,
        "silu": silu,
        "swish": silu,
        "tanh": tanh,
    }
)
"""The names that `hidden_act` of a config.json takes, as transformers defines them."""


@model
class Mlp:
    """down(activation(gate(x)) * up(x)): SwiGLU with silu, GeGLU with gelu (Shazeer, arXiv:2002.05202)."""

    gate: Linear
    up: Linear
    down: Linear
    activation: str = static(default="silu")

    @classmethod
    def init(
        cls,
        view: View,
        d: int,
        f: int,
        activation: str,
        *,
        bias: bool = False,
        partition: AxisPartition = "model",
    ) -> Mlp:
        """Declares `gate_proj` and `up_proj` [f, d] and `down_proj` [d, f], all cut along f as `partition` says.

        Raises UnsupportedError for an activation that is not in ACTIVATIONS.
        """
        if activation not in ACTIVATIONS:
            raise UnsupportedError(
                f"Mlp.init: there is no activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        gate, up = (
            Linear.init(view.prefix(name), {"f": f}, {"d": d}, bias=bias, f=partition)
            for name in ("gate_proj", "up_proj")
        )
        down = Linear.init(view.prefix("down_proj"), {"d": d}, {"f": f}, bias=bias, f=partition)
        return cls(gate, up, down, activation)

    def __call__(self, x: Tensor) -> Tensor:
        """x {.., d} -> {.., d}."""
        hidden = gated_product(x, self.gate, self.up, self.activation)
        if hidden is None:
            gate, up = project(x, self.gate, self.up)
            hidden = ACTIVATIONS[self.activation](gate) * up
        return self.down(hidden)
