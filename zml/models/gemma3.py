"""Gemma 3 (arXiv:2503.19786), its text model.

Norms before and after each part, norms of query and key heads, a sliding window in five layers of six with a RoPE of
its own, embeddings scaled by sqrt(hidden), GeGLU.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zml.attention import Attention
from zml.io import View
from zml.model_tree import model
from zml.models.config import ConfigReader
from zml.models.decoder import Decoder, LayerCache, SelfAttention, init_mlp
from zml.models.decoder_config import (
    SLIDING,
    Config,
    LayerConfig,
    read_activation,
    read_layer_count,
    read_sizes,
)
from zml.nn import Mlp, RmsNorm, Rope
from zml.nn.rope import CONFIG_KEYS
from zml.tensor import Tensor

# Gemma's norms multiply with 1 + weight, in float32.
_NORM: dict[str, Any] = {"offset": 1.0, "wide": True}


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads a parsed config.json (model_type gemma3_text); raises ConfigError for what is wrong or not understood."""
    read = ConfigReader(config, "gemma3_text")
    sizes = read_sizes(
        read, vocab_size=262208, hidden_size=2304, intermediate_size=9216, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, max_position_embeddings=131072,
    )  # fmt: skip
    layers, every = read_layer_count(read, 26), read.integer("sliding_window_pattern", 6)
    types = read.layer_types(
        ["full_attention" if (i + 1) % every == 0 else SLIDING for i in range(layers)]
    )
    window = read.window(default=4096)
    read.taken(*CONFIG_KEYS)
    ropes = Rope.by_layer_type(config, sizes["head_dim"], types)
    bias = read.boolean("attention_bias", False)
    result = Config(
        **sizes,
        activation=read_activation(read, "hidden_activation", "gelu_pytorch_tanh"),
        tied_embeddings=read.boolean("tie_word_embeddings", True),
        layers=tuple(
            LayerConfig(ropes[kind], window if kind == SLIDING else None) for kind in types
        ),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=True,
        scale=read.number("query_pre_attn_scalar", 256) ** -0.5,
        logit_softcap=read.optional_number("final_logit_softcapping"),
    )
    read.finish()
    return result


def init(view: View, config: Config, shards: int = 1) -> Decoder:
    """Declares the model; `shards`: how often the logical axis `model` cuts."""
    decoder = Decoder.init(view, config, shards, SandwichLayer, **_NORM)
    return replace(decoder, embedding_scale=math.sqrt(config.hidden_size))


@model
class SandwichLayer:
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    attention_norm: RmsNorm
    attention: SelfAttention
    after_attention_norm: RmsNorm
    mlp_norm: RmsNorm
    mlp: Mlp
    after_mlp_norm: RmsNorm

    @staticmethod
    def init(view: View, config: Config, layer: LayerConfig, shards: int) -> "SandwichLayer":
        """Declares one layer by its Hugging Face names."""

        def norm(name: str) -> RmsNorm:
            return RmsNorm.init(view.prefix(name), config.hidden_size, eps=config.norm_eps, **_NORM)

        return SandwichLayer(
            attention_norm=norm("input_layernorm"),
            attention=SelfAttention.init(view.prefix("self_attn"), config, layer, shards, **_NORM),
            after_attention_norm=norm("post_attention_layernorm"),
            mlp_norm=norm("pre_feedforward_layernorm"),
            mlp=init_mlp(view.prefix("mlp"), config, shards),
            after_mlp_norm=norm("post_feedforward_layernorm"),
        )

    def __call__(
        self, x: Tensor, start: Tensor, cache: LayerCache | None, attention: Attention
    ) -> tuple[Tensor, LayerCache]:
        """x {s,d} -> {s,d}."""
        attended, cache = self.attention(self.attention_norm(x), start, cache, attention)
        x = x + self.after_attention_norm(attended)
        return x + self.after_mlp_norm(self.mlp(self.mlp_norm(x))), cache
