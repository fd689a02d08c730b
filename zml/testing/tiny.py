"""A Llama small enough to compile in a blink, and a byte-level tokenizer trained on the spot."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zml.io import WeightSpec
from zml.llm.programs import Decoder, Programs
from zml.llm.session import Session
from zml.models import architecture, llama
from zml.platform import Platform

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
"""config.json of the tiny Llama: two layers, GQA, and room for the byte-level vocabulary."""

WORDS = (
    "the violin is a string instrument",
    "naïve café",
    "日本語のテキスト",
    "👩‍🚀🎻🎻 ok",
    "e\u0301a\u0300",
)
"""Text whose characters take one to four bytes, joiners and combining marks included."""


def byte_tokenizer(corpus: Sequence[str], vocab_size: int = 300) -> Tokenizer:
    """A byte-level BPE trained on a corpus; <s> is 0 and </s> is 1. Merges cut characters in two, as real ones do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def random_weights(config: llama.Config, seed: int = 0) -> llama.Weights[np.ndarray]:
    """Weights that make every token of the context, every norm and every bias move the logits clearly.

    By numpy: `llama.random_weights` compiles a program for each shape, and starts norms at 1 and biases at 0.
    """
    rng = np.random.default_rng(seed)

    def draw(spec: WeightSpec) -> np.ndarray:
        noise = rng.standard_normal(spec.shape, np.float32) * np.float32(0.2)
        return noise + np.float32(spec.name.endswith("norm.weight"))

    return jax.tree.map(draw, llama.weight_specs(config))


class TinyLlama:
    """The tiny Llama bound to a platform. Its programs are compiled once for all sessions."""

    def __init__(self, platform: Platform, length: int = 40) -> None:
        self.config = llama.read_config(CONFIG)
        self.decoder = Decoder(
            architecture("llama"), self.config, platform, np.dtype(np.float32), length
        )
        self.programs = Programs(self.decoder)
        specs = llama.weight_specs(self.config)
        self.weights = jax.tree.map(platform.place, specs, random_weights(self.config))

    def session(self) -> Session:
        """A fresh session: an empty KV cache."""
        return Session(self.decoder, self.programs, self.weights)
