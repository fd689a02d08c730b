"""Mistral (Jiang et al., arXiv:2310.06825): Llama whose tokens see a sliding window of those before them."""

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
    read = ConfigReader(config, "mistral")
    sizes = read_sizes(
        read, vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=4096 * 32,
    )  # fmt: skip
    # A config.json that does not have the window means Mistral 7B v0.1; later ones switch it off with null.
    layer = LayerConfig(read_rope(read, sizes["head_dim"]), read.window(default=4096))
    result = Config(
        **sizes,
        activation=read_activation(read),
        tied_embeddings=read.boolean("tie_word_embeddings", False),
        layers=(layer,) * read_layer_count(read, 32),
    )
    read.finish()
    return result
