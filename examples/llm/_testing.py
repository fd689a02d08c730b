"""A tiny checkpoint, written by safetensors and tokenizers themselves, and the command line run on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from examples.llm.main import main

VOCAB = 300


def config(**changes: Any) -> dict[str, Any]:
    """config.json of a Llama of one layer."""
    return {
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        "tie_word_embeddings": True, "rope_theta": 10000.0, "torch_dtype": "float32", "eos_token_id": 2,
    } | changes  # fmt: skip


def tensors() -> dict[str, np.ndarray]:
    """Its weights, by name."""
    random = np.random.default_rng(7)
    shapes = {
        "model.embed_tokens.weight": (VOCAB, 16), "model.norm.weight": (16,),
        "model.layers.0.input_layernorm.weight": (16,), "model.layers.0.post_attention_layernorm.weight": (16,),
        "model.layers.0.self_attn.q_proj.weight": (16, 16), "model.layers.0.self_attn.k_proj.weight": (8, 16),
        "model.layers.0.self_attn.v_proj.weight": (8, 16), "model.layers.0.self_attn.o_proj.weight": (16, 16),
        "model.layers.0.mlp.gate_proj.weight": (24, 16), "model.layers.0.mlp.up_proj.weight": (24, 16),
        "model.layers.0.mlp.down_proj.weight": (16, 24),
    }  # fmt: skip
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def tokenizer() -> Tokenizer:
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def write_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes the checkpoint; the cache of programs is in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config()))
    save_file(tensors(), folder / "model.safetensors")
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def run(*arguments: str) -> int:
    """The exit code of a command line."""
    return main(["llm", *arguments])


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Runs a command that must fail with one message on stderr and nothing on stdout; returns the message."""
    assert run(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    errors = [line for line in err.splitlines() if not line.startswith("info(")]
    assert len(errors) == 1, err
    assert errors[0].startswith("error(llm): ")
    assert "Traceback" not in err
    return errors[0]
