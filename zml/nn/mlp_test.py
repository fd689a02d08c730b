import math

import numpy as np
import pytest

from zml.errors import UnsupportedError
from zml.io.view import View
from zml.model_tree import leaves
from zml.nn import ACTIVATIONS, Linear, Mlp
from zml.shape import REPLICATED
from zml.tensor import Tensor

_VIEW = View.blank("f32")


def _exact(name: str, x: float) -> float:
    match name:
        case "silu" | "swish":
            return x / (1 + math.exp(-x))
        case "relu":
            return max(x, 0.0)
        case "relu2":
            return max(x, 0.0) ** 2
        case "sigmoid":
            return 1 / (1 + math.exp(-x))
        case "tanh":
            return math.tanh(x)
        case "quick_gelu":
            return x / (1 + math.exp(-1.702 * x))
        case "gelu" | "gelu_python":
            return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    assert name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_follows_its_formula(name: str) -> None:
    xs = [-30.0, -3.0, -0.5, 0.0, 1e-3, 1.0, 4.0, 30.0, *np.random.default_rng().normal(size=8)]
    got = ACTIVATIONS[name](Tensor(np.array(xs, np.float32), ("d",)))
    expected = [_exact(name, float(np.float32(x))) for x in xs]
    np.testing.assert_allclose(got.value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_mlp_against_float64(activation: str) -> None:
    rng = np.random.default_rng()
    gate, up, down, x = (rng.standard_normal(s) for s in ((11, 6), (11, 6), (6, 11), (3, 6)))
    biases = [rng.standard_normal(n) for n in (11, 11, 6)]

    def tensor(values: np.ndarray, tags: str) -> Tensor:
        return Tensor(values.astype(np.float32), tags.split())

    mlp = Mlp(
        Linear(tensor(gate, "f d"), tensor(biases[0], "f"), ("d",)),
        Linear(tensor(up, "f d"), tensor(biases[1], "f"), ("d",)),
        Linear(tensor(down, "d f"), tensor(biases[2], "d"), ("f",)),
        activation,
    )
    inner = np.vectorize(lambda v: _exact(activation, v))(x @ gate.T + biases[0])
    expected = (inner * (x @ up.T + biases[1])) @ down.T + biases[2]
    np.testing.assert_allclose(mlp(tensor(x, "s d")).value, expected, rtol=1e-4, atol=1e-4)


def test_declared_with_the_names_of_hugging_face() -> None:
    mlp = Mlp.init(_VIEW.prefix("mlp"), 6, 11, "silu", bias=True)
    found = {x.source.name: str(x.shape) for x in leaves(mlp)}
    assert found == {
        "mlp.gate_proj.weight": "{f=11/model,d=6,f32}",
        "mlp.gate_proj.bias": "{f=11/model,f32}",
        "mlp.up_proj.weight": "{f=11/model,d=6,f32}",
        "mlp.up_proj.bias": "{f=11/model,f32}",
        "mlp.down_proj.weight": "{d=6,f=11/model,f32}",
        "mlp.down_proj.bias": "{d=6,f32}",
    }
    whole = Mlp.init(_VIEW, 6, 11, "silu", partition=REPLICATED)
    assert str(leaves(whole)[0].shape) == "{f=11/-,d=6,f32}"


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no activation 'gelu_10'; expected one of gelu,"):
        Mlp.init(_VIEW, 6, 11, "gelu_10")
