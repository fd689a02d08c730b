"""Llama (Touvron et al., arXiv:2302.13971; Llama 2 and 3): RMS norm, RoPE, GQA, SwiGLU."""

from collections.abc import Mapping
from typing import Any

from zml.models.config import ConfigReader
from zml.models.decoder import Decoder
from zml.models.decoder_config import (
    Config,
    LayerConfig,
    read_activation,
    read_layer_count,
    read_rope,
    read_sizes,
)

init = Decoder.init


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads a parsed config.json; raises ConfigError for what is missing, wrong or not understood."""
    read = ConfigReader(config, "llama")
    sizes = read_sizes(read, max_position_embeddings=2048)
    attention_bias = read.boolean("attention_bias", False)
    result = Config(
        **sizes,
        activation=read_activation(read),
        tied_embeddings=read.boolean("tie_word_embeddings", False),
        layers=(LayerConfig(read_rope(read, sizes["head_dim"])),) * read_layer_count(read),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=read.boolean("mlp_bias", False),
    )
    read.finish()
    return result
