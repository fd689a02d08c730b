"""Qwen3 (arXiv:2505.09388): Llama with an RMS norm of each query and key head before RoPE."""

from collections.abc import Mapping
from typing import Any

from zml.models.config import ConfigReader
from zml.models.decoder import Decoder
from zml.models.decoder_config import Config, read_activation, read_sizes
from zml.models.qwen2 import read_layers

init = Decoder.init


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads a parsed config.json; raises ConfigError for what is missing, wrong or not understood."""
    read = ConfigReader(config, "qwen3")
    sizes = read_sizes(read, num_key_value_heads=32, head_dim=128, max_position_embeddings=32768)
    attention_bias = read.boolean("attention_bias", False)
    result = Config(
        **sizes,
        activation=read_activation(read),
        tied_embeddings=read.boolean("tie_word_embeddings", False),
        layers=read_layers(read, sizes["head_dim"]),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        qk_norm=True,
    )
    read.finish()
    return result
