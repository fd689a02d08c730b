"""Llama (Touvron et al., arXiv:2302.13971; Llama 2 and 3): RMS norm, RoPE, GQA, SwiGLU."""

from collections.abc import Mapping
from typing import Any

from zml.io import View
from zml.models.config import ConfigReader
from zml.models.decoder import Attending, Config, Decoder, read_activation, read_layers, read_sizes
from zml.nn import Rope
from zml.nn.rope import CONFIG_KEYS


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads a parsed config.json; raises ConfigError for what is missing, wrong or not understood."""
    read = ConfigReader(config, "llama")
    sizes = read_sizes(read, config, max_position_embeddings=2048)
    read.taken(*CONFIG_KEYS)
    attention_bias = read.boolean("attention_bias", False)
    rope = Rope.from_config(config, sizes["head_dim"])
    result = Config(
        **sizes,
        activation=read_activation(read),
        tied_embeddings=read.boolean("tie_word_embeddings", False),
        attending=(Attending(rope),) * read_layers(read),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=read.boolean("mlp_bias", False),
    )
    read.finish()
    return result


def init(view: View, config: Config, shards: int = 1) -> Decoder:
    """Declares the model; `shards`: how often the logical axis `model` cuts."""
    return Decoder.init(view, config, shards)
