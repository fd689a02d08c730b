"""Models small enough to compile in a blink, with random weights, and a byte-level tokenizer trained on the spot."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from zml.io import View, load
from zml.llm.programs import Deployment, Programs
from zml.llm.session import Session
from zml.model_tree import leaves
from zml.models import Decoder, architecture
from zml.platform import Platform
from zml.testing import files

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

_WINDOWED = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma3_text": CONFIG | _WINDOWED | {"head_dim": 8, "query_pre_attn_scalar": 10},
    "llama": CONFIG,
    "mistral": CONFIG | {"sliding_window": 6},
    "qwen2": CONFIG | _WINDOWED | {"use_sliding_window": True},
    "qwen3": CONFIG | {"head_dim": 8},
}
"""The same for each architecture, by model_type, with the windows and the head sizes that they have."""
for _model_type, _config in CONFIGS.items():
    CONFIGS[_model_type] = _config | {"model_type": _model_type}

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


def weights(config: Mapping[str, Any] = CONFIG, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights by their names in a checkpoint: every norm and every bias moves the logits clearly."""
    arch = architecture(config["model_type"])
    rng = np.random.default_rng(seed)
    sources = [x.source for x in leaves(arch.init(View.blank("f32"), arch.read_config(config)))]
    return {
        source.name: rng.standard_normal(source.dims, np.float32) * np.float32(0.2)
        + np.float32(source.name.endswith("norm.weight"))
        for source in sources
    }


def checkpoint(folder: Path, **changes: Any) -> Path:
    """Writes a tiny random Llama with tokenizer and chat template; `changes` go over its config.json."""
    config = CONFIG | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(files.tensors(weights(config)))
    byte_tokenizer(WORDS).save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


class TinyModel:
    """A tiny model with random weights on a platform. Its programs are compiled once for all sessions."""

    def __init__(
        self,
        platform: Platform,
        length: int = 40,
        config: Mapping[str, Any] = CONFIG,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        arch = architecture(config["model_type"])
        self.config = arch.read_config(config)
        with tempfile.TemporaryDirectory() as folder:
            store = files.store(Path(folder), weights(config) if arrays is None else arrays)
            view = store.view("f32")
            self.deployment = Deployment.of(platform, arch, self.config, view, length)
            self.weights: Decoder = load(
                self.deployment.model, store, platform, shardings=[self.deployment.sharding]
            )
        self.programs = Programs(self.deployment)

    def session(self) -> Session:
        """A fresh session: an empty KV cache."""
        return Session(self.deployment, self.programs, self.weights)
