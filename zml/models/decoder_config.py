"""The sizes and switches that decoders have in common, and how config.json spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zml.attention import KvCache
from zml.errors import ConfigError
from zml.models.config import ConfigReader
from zml.nn import ACTIVATIONS, Rope
from zml.nn.rope import CONFIG_KEYS
from zml.shape import REPLICATED, AxisPartition, Shape
from zml.sharding import kv_head_repeats

MODEL_AXIS = "model"
"""The logical axis that weights are cut over: tensor parallelism (Shoeybi et al., arXiv:1909.08053)."""
SLIDING = "sliding_attention"
"""What layer_types calls a layer whose tokens see a window."""
# Far above any model: a damaged config.json must not have a billion layers declared before it is refused.
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class LayerConfig:
    """What differs between the layers of a model."""

    rope: Rope
    window: int | None = None
    """How many positions a token sees, itself included; None: all before it."""


@dataclass(frozen=True)
class Config:
    """The sizes and switches of a decoder; sizes in elements."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    activation: str
    norm_eps: float
    max_positions: int
    tied_embeddings: bool
    layers: tuple[LayerConfig, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    scale: float | None = None
    """What scores are multiplied with; None: head_dim ** -0.5."""
    logit_softcap: float | None = None

    def cached_heads(self, shards: int) -> tuple[int, AxisPartition]:
        """KV heads as they are cached, repeats counted, and how they are cut, where weights are cut `shards` times.

        Where the query heads do not divide by the shards, every device has all heads.
        """
        if self.heads % shards:
            return self.kv_heads, REPLICATED
        return self.kv_heads * kv_head_repeats(self.heads, self.kv_heads, shards), MODEL_AXIS

    def cache(self, length: int, dtype: Any, shards: int = 1) -> KvCache:
        """The KV cache of one sequence of up to `length` tokens, declared."""
        heads, cut = self.cached_heads(shards)
        shape = Shape({"h": heads, "k": length, "hd": self.head_dim}, dtype, {"h": cut})
        return KvCache.declare(len(self.layers), shape)


def read_sizes(read: ConfigReader, **defaults: Any) -> dict[str, Any]:
    """The fields of Config that all architectures spell alike; `defaults` by the names in config.json."""
    hidden_size = read.integer("hidden_size", defaults.get("hidden_size"))
    heads = read.integer("num_attention_heads", defaults.get("num_attention_heads"))
    kv_heads = read.integer("num_key_value_heads", defaults.get("num_key_value_heads", heads))
    if heads % kv_heads:
        raise ConfigError(
            f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    usual = defaults.get("head_dim")
    if read.config.get("head_dim") is None and usual is None and hidden_size % heads:
        raise ConfigError(
            f"config.json: hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}, "
            "and there is no head_dim"
        )
    head_dim = read.integer("head_dim", usual or hidden_size // heads)
    if head_dim % 2:
        raise ConfigError(f"config.json: head_dim is {head_dim}, RoPE expects an even number")
    positions = defaults.get("max_position_embeddings")
    return {
        "vocab_size": read.integer("vocab_size", defaults.get("vocab_size")),
        "hidden_size": hidden_size,
        "intermediate_size": read.integer("intermediate_size", defaults.get("intermediate_size")),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "norm_eps": read.number("rms_norm_eps", 1e-6),
        "max_positions": read.integer("max_position_embeddings", positions),
    }


def read_layer_count(read: ConfigReader, default: int | None = None) -> int:
    """num_hidden_layers."""
    return read.integer("num_hidden_layers", default, most=_MOST_LAYERS)


def read_activation(read: ConfigReader, key: str = "hidden_act", default: str = "silu") -> str:
    """The name of the MLP's activation."""
    return read.choice(key, default, ACTIVATIONS)


def read_rope(read: ConfigReader, head_dim: int) -> Rope:
    """The RoPE that all layers share."""
    read.taken(*CONFIG_KEYS)
    return Rope.from_config(read.config, head_dim)
