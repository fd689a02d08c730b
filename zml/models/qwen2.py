"""Qwen2 and Qwen2.5 (arXiv:2407.10671, 2412.15115): Llama with biases on q, k and v, and a window in the upper layers
where the config switches it on."""

from collections.abc import Mapping
from typing import Any

from zml.io import View
from zml.models.config import ConfigReader
from zml.models.decoder import Attending, Config, Decoder, read_activation, read_layers, read_sizes
from zml.nn import Rope
from zml.nn.rope import CONFIG_KEYS


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads a parsed config.json; raises ConfigError for what is missing, wrong or not understood."""
    read = ConfigReader(config, "qwen2")
    sizes = read_sizes(read, config, num_key_value_heads=32, max_position_embeddings=32768)
    result = Config(
        **sizes,
        activation=read_activation(read),
        tied_embeddings=read.boolean("tie_word_embeddings", False),
        attending=read_attending(read, config, sizes["head_dim"]),
        qkv_bias=True,
    )
    read.finish()
    return result


def read_attending(
    read: ConfigReader, config: Mapping[str, Any], head_dim: int
) -> tuple[Attending, ...]:
    """Qwen's layers: a window in those from max_window_layers on, or in those that layer_types names."""
    read.taken(*CONFIG_KEYS)
    layers, lowest = read_layers(read), read.natural("max_window_layers", 28)
    window = read.window(default=4096)
    if not read.boolean("use_sliding_window", False):
        window = None
    types = read.layer_types(
        layers,
        [
            "sliding_attention" if window and i >= lowest else "full_attention"
            for i in range(layers)
        ],
    )
    rope = Rope.from_config(config, head_dim)
    return tuple(Attending(rope, window if kind == "sliding_attention" else None) for kind in types)


def init(view: View, config: Config, shards: int = 1) -> Decoder:
    """Declares the model; `shards`: how often the logical axis `model` cuts."""
    return Decoder.init(view, config, shards)
