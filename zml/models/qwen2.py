"""Qwen2 and Qwen2.5 (arXiv:2407.10671, 2412.15115): Llama with biases on q, k and v, and perhaps windowed layers."""

from collections.abc import Mapping
from typing import Any

from zml.models.config import ConfigReader
from zml.models.decoder import Decoder
from zml.models.decoder_config import (
    SLIDING,
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
    read = ConfigReader(config, "qwen2")
    sizes = read_sizes(read, num_key_value_heads=32, max_position_embeddings=32768)
    result = Config(
        **sizes,
        activation=read_activation(read),
        tied_embeddings=read.boolean("tie_word_embeddings", False),
        layers=read_layers(read, sizes["head_dim"]),
        qkv_bias=True,
    )
    read.finish()
    return result


def read_layers(read: ConfigReader, head_dim: int) -> tuple[LayerConfig, ...]:
    """Qwen's layers: with use_sliding_window those that layer_types names see a window, or max_window_layers and on."""
    count, lowest = read_layer_count(read), read.natural("max_window_layers", 28)
    window = read.window(default=4096)
    if not read.boolean("use_sliding_window", False):
        window = None
    types = read.layer_types(
        [SLIDING if window and i >= lowest else "full_attention" for i in range(count)]
    )
    rope = read_rope(read, head_dim)
    return tuple(LayerConfig(rope, window if kind == SLIDING else None) for kind in types)
