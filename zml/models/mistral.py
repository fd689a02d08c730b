"""Mistral (Jiang et al., arXiv:2310.06825): Llama whose tokens see a sliding window of those before them."""

from collections.abc import Mapping
from typing import Any

from zml.io import View
from zml.models.config import ConfigReader
from zml.models.decoder import Attending, Config, Decoder, read_activation, read_layers, read_sizes
from zml.nn import Rope
from zml.nn.rope import CONFIG_KEYS


def read_config(config: Mapping[str, Any]) -> Config:
    """Reads a parsed config.json; raises ConfigError for what is missing, wrong or not understood."""
    read = ConfigReader(config, "mistral")
    sizes = read_sizes(
        read, config, vocab_size=32000, hidden_size=4096, intermediate_size=14336,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=4096 * 32,
    )  # fmt: skip
    read.taken(*CONFIG_KEYS)
    attending = Attending(
        Rope.from_config(config, sizes["head_dim"]),
        # A config.json that does not have the key means Mistral 7B v0.1; later ones switch the window off with null.
        read.window(default=4096),
    )
    result = Config(
        **sizes,
        activation=read_activation(read),
        tied_embeddings=read.boolean("tie_word_embeddings", False),
        attending=(attending,) * read_layers(read, 32),
    )
    read.finish()
    return result


def init(view: View, config: Config, shards: int = 1) -> Decoder:
    """Declares the model; `shards`: how often the logical axis `model` cuts."""
    return Decoder.init(view, config, shards)
