import random
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zml.attention import KvCache
from zml.models import llama
from zml.testing.tiny import CONFIG, random_weights

_LENGTH = 16
_CHUNK = 5
_VARIANTS: list[dict[str, Any]] = [
    {},
    {
        "num_key_value_heads": 1, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
        "head_dim": 6, "hidden_act": "gelu_pytorch_tanh",
    },
]  # fmt: skip


def _model(changes: dict[str, Any]) -> tuple[llama.Config, llama.Weights[jax.Array]]:
    config = llama.read_config(CONFIG | changes)
    return config, jax.tree.map(jnp.asarray, random_weights(config))


def _numpy_forward(
    config: llama.Config, weights: llama.Weights[jax.Array], tokens: np.ndarray
) -> np.ndarray:
    """Llama in float64 numpy, one token and one head at a time, straight from the paper's description."""
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)
    half = config.head_dim // 2
    angles = np.outer(np.arange(len(tokens)), np.array(config.rope.inverse_frequencies))

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * weight

    def linear(layer: Any, x: np.ndarray) -> np.ndarray:
        return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)

    def turn(x: np.ndarray) -> np.ndarray:
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None, :]
        return np.concatenate([z.real, z.imag], -1)

    def activation(x: np.ndarray) -> np.ndarray:
        if config.activation == "silu":
            return x / (1 + np.exp(-x))
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = w.embedding[tokens]
    for layer in w.layers:
        h = norm(x, layer.attention_norm)
        q, k, v = (
            linear(part, h).reshape(len(tokens), -1, config.head_dim)
            for part in (layer.q, layer.k, layer.v)
        )
        q, k, mixed = turn(q), turn(k), np.zeros_like(q)
        for t in range(len(tokens)):
            for head in range(config.heads):
                kv = head * config.kv_heads // config.heads
                scores = np.exp(k[: t + 1, kv] @ q[t, head] / np.sqrt(config.head_dim))
                mixed[t, head] = scores / scores.sum() @ v[: t + 1, kv]
        x = x + linear(layer.o, mixed.reshape(len(tokens), -1))
        h = norm(x, layer.mlp_norm)
        x = x + linear(layer.down, activation(linear(layer.gate, h)) * linear(layer.up, h))
    table = w.embedding if w.lm_head is None else w.lm_head
    return norm(x, w.norm) @ table.T


@pytest.mark.parametrize("changes", _VARIANTS, ids=["gqa", "mqa-tied-biases"])
def test_forward_against_float64(changes: dict[str, Any]) -> None:
    config, weights = _model(changes)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 11).astype(np.int32)
    got = jax.jit(partial(llama.forward, config))(weights, tokens)
    assert got.dtype == jnp.float32
    expected = _numpy_forward(config, weights, tokens)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-4, atol=1e-4)


@cache
def _programs() -> tuple[llama.Config, Any, Any, Any]:
    config, weights = _model({})
    return (
        config,
        weights,
        jax.jit(partial(llama.forward, config)),
        jax.jit(partial(llama.hidden_states, config)),
    )


@pytest.mark.parametrize("seed", range(6))
def test_chunks_over_the_cache_give_what_forward_gives(seed: int) -> None:
    config, weights, forward, hidden_states = _programs()
    rng = random.Random(seed)
    tokens = np.array([rng.randrange(config.vocab_size) for _ in range(11)], np.int32)
    expected = np.asarray(forward(weights, tokens))
    # NaN throughout: what a chunk has not written yet must not matter.
    cache: KvCache[Any] = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype),
        KvCache.shapes(
            config.layers, config.kv_heads, _LENGTH, config.head_dim, jnp.dtype(jnp.float32)
        ),
    )
    done = 0
    while done < len(tokens):
        take = rng.randint(1, min(_CHUNK, len(tokens) - done))
        # Padded to one length, as prefill does.
        chunk = np.zeros(_CHUNK, np.int32)
        chunk[:take] = tokens[done : done + take]
        hidden, cache = hidden_states(weights, chunk, np.int32(done), cache)
        got = np.asarray(llama.logits(config, weights, hidden[:take]))
        np.testing.assert_allclose(got, expected[done : done + take], rtol=1e-4, atol=1e-4)
        done += take


def test_logits_of_bfloat16_are_float32() -> None:
    config, weights, _, _ = _programs()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    out = jax.eval_shape(partial(llama.forward, config), half, np.zeros(3, np.int32))
    assert (out.shape, out.dtype) == ((3, config.vocab_size), jnp.float32)


def test_random_weights_are_repeatable_and_start_as_said() -> None:
    config = llama.read_config(CONFIG | {"attention_bias": True})
    one, two = (llama.random_weights(config, jax.random.key(3)) for _ in range(2))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, two))
    assert (one.layers[0].attention_norm == 1).all()
    bias = one.layers[0].q.bias
    assert bias is not None and not bias.any()
    assert float(one.embedding.std()) == pytest.approx(0.02, rel=0.05)
