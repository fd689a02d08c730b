"""Llama (Touvron et al., arXiv:2302.13971; Llama 2 and 3): decoder-only, RoPE, GQA, SwiGLU, RMS norm.

A checkpoint's config.json gives a `Config`; `weight_specs` declares the weights as a pytree; `forward` runs a whole
sequence, `hidden_states` + `logits` a chunk of it over a KV cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from zml.attention import KvCache, attention
from zml.attention.cache import append
from zml.errors import ConfigError
from zml.io import WeightSpec
from zml.models.config import ConfigReader
from zml.nn.layers import ACTIVATIONS, Linear, rms_norm
from zml.nn.rope import Rope, rotate
from zml.tree import pytree

# Far above any model: a damaged config.json must not have a billion layers declared before it is refused.
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Config:
    """The sizes and switches of a Llama; sizes in elements."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    activation: str
    norm_eps: float
    max_positions: int
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    rope: Rope

    @staticmethod
    def from_dict(config: Mapping[str, Any]) -> "Config":
        """Reads a parsed config.json; raises ConfigError for what is missing, wrong or not understood."""
        read = ConfigReader(config, "llama")
        hidden_size = read.integer("hidden_size")
        heads = read.integer("num_attention_heads")
        kv_heads = read.integer("num_key_value_heads", heads)
        if heads % kv_heads:
            raise ConfigError(
                f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if config.get("head_dim") is None and hidden_size % heads:
            raise ConfigError(
                f"config.json: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}, "
                "and there is no head_dim"
            )
        head_dim = read.integer("head_dim", hidden_size // heads)
        if head_dim % 2:
            raise ConfigError(f"config.json: head_dim is {head_dim}, RoPE expects an even number")
        read.taken("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")
        result = Config(
            vocab_size=read.integer("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=read.integer("intermediate_size"),
            layers=read.integer("num_hidden_layers", most=_MOST_LAYERS),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            activation=read.choice("hidden_act", "silu", ACTIVATIONS),
            norm_eps=read.number("rms_norm_eps", 1e-6),
            max_positions=read.integer("max_position_embeddings", 2048),
            tied_embeddings=read.boolean("tie_word_embeddings", False),
            attention_bias=read.boolean("attention_bias", False),
            mlp_bias=read.boolean("mlp_bias", False),
            rope=Rope.from_config(config, head_dim),
        )
        read.finish()
        return result


read_config = Config.from_dict


@pytree
class Layer[T]:
    """One decoder layer."""

    attention_norm: T
    q: Linear[T]
    k: Linear[T]
    v: Linear[T]
    o: Linear[T]
    mlp_norm: T
    gate: Linear[T]
    up: Linear[T]
    down: Linear[T]


@pytree
class Weights[T]:
    """All weights: WeightSpecs when declared, arrays when loaded. `lm_head` is None where embeddings are tied."""

    embedding: T
    layers: tuple[Layer[T], ...]
    norm: T
    lm_head: T | None


def weight_specs(config: Config) -> Weights[WeightSpec]:
    """The weights that a checkpoint of this config must hold, by their Hugging Face names."""
    q_size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def linear(name: str, out: int, inner: int, split: int, bias: bool) -> Linear[WeightSpec]:
        # Column-parallel layers (split 0) split their bias too; row-parallel ones (split 1) add theirs once.
        return Linear(
            WeightSpec(f"{name}.weight", (out, inner), split),
            WeightSpec(f"{name}.bias", (out,), 0 if split == 0 else None) if bias else None,
        )

    def layer(index: int) -> Layer[WeightSpec]:
        name = f"model.layers.{index}"
        project = partial(linear, bias=config.attention_bias)
        feed = partial(linear, bias=config.mlp_bias)
        hidden, ffn = config.hidden_size, config.intermediate_size
        return Layer(
            attention_norm=WeightSpec(f"{name}.input_layernorm.weight", (hidden,)),
            q=project(f"{name}.self_attn.q_proj", q_size, hidden, 0),
            k=project(f"{name}.self_attn.k_proj", kv_size, hidden, 0),
            v=project(f"{name}.self_attn.v_proj", kv_size, hidden, 0),
            o=project(f"{name}.self_attn.o_proj", hidden, q_size, 1),
            mlp_norm=WeightSpec(f"{name}.post_attention_layernorm.weight", (hidden,)),
            gate=feed(f"{name}.mlp.gate_proj", ffn, hidden, 0),
            up=feed(f"{name}.mlp.up_proj", ffn, hidden, 0),
            down=feed(f"{name}.mlp.down_proj", hidden, ffn, 1),
        )

    table = (config.vocab_size, config.hidden_size)
    return Weights(
        embedding=WeightSpec("model.embed_tokens.weight", table, 1),
        layers=tuple(layer(i) for i in range(config.layers)),
        norm=WeightSpec("model.norm.weight", (config.hidden_size,)),
        lm_head=None if config.tied_embeddings else WeightSpec("lm_head.weight", table, 0),
    )


def random_weights(config: Config, key: jax.Array, dtype: Any = jnp.float32) -> Weights[jax.Array]:
    """Weights to start training from: normal with std 0.02, ones for norms, zeros for biases."""
    specs, tree = jax.tree.flatten(weight_specs(config))
    leaves = []
    for spec, leaf_key in zip(specs, jax.random.split(key, len(specs)), strict=True):
        if spec.name.endswith("norm.weight"):
            leaves.append(jnp.ones(spec.shape, dtype))
        elif spec.name.endswith(".bias"):
            leaves.append(jnp.zeros(spec.shape, dtype))
        else:
            leaves.append((0.02 * jax.random.normal(leaf_key, spec.shape)).astype(dtype))
    return jax.tree.unflatten(tree, leaves)


# Compiled as one function that the program calls for each layer: tracing and lowering take as long as for one layer.
@partial(jax.jit, static_argnums=0)
def _layer(
    config: Config,
    layer: Layer[jax.Array],
    x: jax.Array,
    start: jax.Array | int,
    cached: tuple[jax.Array, jax.Array] | None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One decoder layer over x [tokens, hidden], which stands at positions start, start + 1, ....

    Returns the same for the next layer, and keys and values [kv_heads, length, head_dim]: those of `cached` with the
    new ones written, or, where nothing is cached, the new ones alone.
    """
    tokens = x.shape[0]
    positions = start + jnp.arange(tokens)
    h = rms_norm(x, layer.attention_norm, config.norm_eps)
    q = layer.q(h).reshape(tokens, config.heads, config.head_dim)
    k = layer.k(h).reshape(tokens, config.kv_heads, config.head_dim)
    v = layer.v(h).reshape(tokens, config.kv_heads, config.head_dim)
    q, k = rotate(q, positions, config.rope), rotate(k, positions, config.rope)
    if cached is None:
        keys, values = k.swapaxes(0, 1), v.swapaxes(0, 1)
    else:
        keys, values = append(cached[0], k, start), append(cached[1], v, start)
    x = x + layer.o(attention(q, keys, values, start).reshape(tokens, -1))
    h = rms_norm(x, layer.mlp_norm, config.norm_eps)
    x = x + layer.down(ACTIVATIONS[config.activation](layer.gate(h)) * layer.up(h))
    return x, (keys, values)


def hidden_states(
    config: Config,
    weights: Weights[jax.Array],
    tokens: jax.Array,
    start: jax.Array,
    cache: KvCache[jax.Array],
) -> tuple[jax.Array, KvCache[jax.Array]]:
    """Runs tokens [n] (int32) at positions start ... start + n - 1 over the cache, which holds what came before.

    Returns the normalised hidden states [n, hidden] and the cache with the n tokens written.
    """
    x = weights.embedding[tokens]
    new = []
    for layer, *cached in zip(weights.layers, cache.keys, cache.values, strict=True):
        x, written = _layer(config, layer, x, start, (cached[0], cached[1]))
        new.append(written)
    keys, values = zip(*new, strict=True)
    return rms_norm(x, weights.norm, config.norm_eps), KvCache(keys, values)


def logits(config: Config, weights: Weights[jax.Array], hidden: jax.Array) -> jax.Array:
    """Logits [..., vocab] in float32 of hidden states [..., hidden]."""
    table = weights.embedding if weights.lm_head is None else weights.lm_head
    return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)


def forward(config: Config, weights: Weights[jax.Array], tokens: jax.Array) -> jax.Array:
    """Logits [n, vocab] (float32) of a whole sequence tokens [n] from position 0, without a cache."""
    x = weights.embedding[tokens]
    for layer in weights.layers:
        x, _ = _layer(config, layer, x, 0, None)
    return logits(config, weights, rms_norm(x, weights.norm, config.norm_eps))
