"""Makes tests/golden/llama: tiny random Llama checkpoints and what transformers computes from them.

    python -m tools.golden.make_llama

Needs an interpreter with torch, transformers 5, tokenizers and safetensors. Each variant is a folder in Hugging
Face layout plus golden.npz; tests/golden/README.md says what is in it.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tools.golden import tiny_tokenizer
from tools.golden.greedy import greedy, load, prompt_logits

OUTPUT = Path(__file__).resolve().parents[2] / "tests/golden/llama"
PROMPT_LENGTH = 24
LOGITS = 16  # the last positions of the prompt
STEPS = 64
# Rounding moves a logit by about 1e-5: a choice that hangs on less than this says nothing.
MIN_GAP = 1e-2
MIN_DISTINCT = 12
MAX_BYTES = 150_000


@dataclass(frozen=True)
class Variant:
    """What sets a checkpoint apart: config.json's entries over _BASE (None removes one), and its files."""

    name: str
    config: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=dict)
    shards: int = 1
    tokenizer: bool = False


_BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
# The spelling of transformers before 5; entries that differ are added by the variant.
_EARLY = {"dtype": None, "rope_parameters": None, "torch_dtype": "float32", "rope_theta": 10000.0}
_SCALED = {"rope_theta": 500.0, "original_max_position_embeddings": 16}

VARIANTS = [
    Variant("gqa", {}),
    Variant("mqa_early", {**_EARLY, "num_key_value_heads": 1, "rope_theta": 123456.0}),
    Variant(
        "mha_tied",
        {
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "num_hidden_layers": 1,
            "vocab_size": tiny_tokenizer.VOCAB_SIZE + 8,
        },
        tokenizer=True,
    ),
    Variant("biases", {"attention_bias": True, "mlp_bias": True}),
    Variant("head_dim", {"head_dim": 16, "num_hidden_layers": 1}),
    Variant(
        "rope_llama3_early",
        {
            **_EARLY,
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
        generation={"temperature": 0.6, "top_p": 0.9, "do_sample": True},
    ),
    Variant("rope_linear_early", {**_EARLY, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    Variant("rope_yarn", {"rope_parameters": {**_SCALED, "rope_type": "yarn", "factor": 16.0}}),
    Variant(
        "rope_yarn_attention_factor_early",
        {
            **_EARLY,
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 16,
                "attention_factor": 0.8,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            },
        },
    ),
    Variant(
        "rope_yarn_mscale",
        {
            "rope_parameters": {
                **_SCALED,
                "rope_type": "yarn",
                "factor": 16.0,
                "mscale": 1.0,
                "mscale_all_dim": 0.5,
                "truncate": False,
            }
        },
    ),
    Variant("sharded", {"eos_token_id": [2, 3, 5]}, {"eos_token_id": [2, 3, 5]}, shards=3),
    Variant("bfloat16", {"dtype": "bfloat16", "num_hidden_layers": 3, "vocab_size": 96}),
    Variant(
        "odd_sizes",
        {
            "vocab_size": 131,
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_hidden_layers": 1,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 12,
            "rms_norm_eps": 1e-3,
            "dtype": "float16",
        },
    ),
]


def _config(variant: Variant) -> dict[str, Any]:
    merged = {**_BASE, **variant.config}
    return {key: value for key, value in merged.items() if value is not None}


def _random_weights(config: dict[str, Any], folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Weights large enough that every part of the model moves the logits by much more than rounding does."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    rng = np.random.default_rng(seed)
    dtype = getattr(torch, config.get("dtype", "float32"))
    tensors = {}
    for name, parameter in sorted(model.named_parameters()):  # a tied lm_head is named once only
        shape = tuple(parameter.shape)
        noise = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            value = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name and not config["tie_word_embeddings"]:
            value = noise
        else:
            value = 2.0 * noise / shape[1] ** 0.5
        tensors[name] = torch.tensor(value, dtype=torch.float32).to(dtype)
    return tensors


def _save_weights(tensors: dict[str, torch.Tensor], folder: Path, shards: int) -> None:
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata)
        return
    # Dealt out in turn, so that neighbouring weights of one layer lie in different files.
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[shard::shards]}
        weight_map.update(dict.fromkeys(part, name))
        save_file(part, folder / name, metadata)
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def make(variant: Variant, first_seed: int) -> str:
    """Writes one variant, with the first seed whose greedy text is well decided and varied; says which."""
    folder, config = OUTPUT / variant.name, _config(variant)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_json(folder / "config.json", config)
    generation = {"bos_token_id": 1, "eos_token_id": 2, **variant.generation}
    _write_json(folder / "generation_config.json", generation)
    golden: dict[str, Any] = {}
    for seed in range(first_seed, first_seed + 1000):
        _save_weights(_random_weights(config, folder, seed), folder, variant.shards)
        model = load(folder)
        prompt = (
            np.random.default_rng(seed).integers(3, config["vocab_size"], PROMPT_LENGTH).tolist()
        )
        if variant.tokenizer:
            golden = tiny_tokenizer.write(folder)
            prompt = golden["prompt_ids"].tolist()
        tokens, gap = greedy(model, prompt, STEPS)
        if gap > MIN_GAP and len(set(tokens)) >= MIN_DISTINCT:
            break
    else:
        raise SystemExit(f"{variant.name}: no seed from {first_seed} on gives a usable greedy text")
    if variant.tokenizer:
        golden["greedy_text"] = np.array(tiny_tokenizer.decode(folder, tokens))
    golden |= {
        "prompt_ids": np.array(prompt, np.int32),
        "logits": prompt_logits(model, prompt)[-LOGITS:].numpy(),
        "greedy_ids": np.array(tokens, np.int32),
    }
    np.savez_compressed(folder / "golden.npz", **golden)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MAX_BYTES:
        raise SystemExit(f"{variant.name}: {size} bytes, more than {MAX_BYTES}")
    return f"{variant.name}: seed {seed}, gap {gap:.3f}, {len(set(tokens))} distinct tokens, {size} bytes"


def main() -> None:
    """Makes all variants anew."""
    for number, variant in enumerate(VARIANTS):
        print(make(variant, 1000 * (number + 1)), flush=True)


if __name__ == "__main__":
    main()
