"""Makes tests/golden: tiny random checkpoints and what transformers computes from them.

    python -m tools.golden.make [--output=DIR] [ARCHITECTURE | ARCHITECTURE/VARIANT ...]

Needs an interpreter with torch, transformers 5, tokenizers and safetensors. Without names it makes all of them.
Each variant is a folder in Hugging Face layout plus golden.npz; tests/golden/README.md says what is in it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tools.golden import gemma3, llama, mistral, qwen2, qwen3, tiny_tokenizer
from tools.golden.greedy import greedy, load, prompt_logits
from tools.golden.variant import Architecture, Variant

ARCHITECTURES = [module.ARCHITECTURE for module in (llama, qwen2, qwen3, mistral, gemma3)]
OUTPUT = Path(__file__).resolve().parents[2] / "tests/golden"
PROMPT_LENGTH = 24
LOGITS = 16  # the last positions of the prompt
STEPS = 64
# Rounding moves a logit by about 1e-5: a choice that hangs on less than this says nothing.
MIN_GAP = 1e-2
MIN_DISTINCT = 12
MAX_BYTES = 200_000


def _write_config(architecture: Architecture, variant: Variant, folder: Path) -> None:
    entries = architecture.entries(variant)
    if architecture.completed and not variant.is_early:
        AutoConfig.for_model(**entries).save_pretrained(folder)
    else:
        _write_json(folder / "config.json", entries)
    ids = {key: entries[key] for key in ("bos_token_id", "eos_token_id")}
    _write_json(folder / "generation_config.json", {**ids, **variant.generation})


def _random_weights(architecture: Architecture, folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Weights large enough that every part of the model moves the logits by much more than rounding does."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, parameter in sorted(model.named_parameters()):  # a tied lm_head is named once only
        shape = tuple(parameter.shape)
        noise = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            # Centred on what the model starts from: zeros where it adds the one itself.
            value = parameter.detach().float().numpy() + 0.3 * noise
            for ending, offset in architecture.norm_offsets.items():
                if name.endswith(ending):
                    value = value + offset
        elif name.endswith(".bias"):
            value = 0.5 * noise
        elif "embed_tokens" in name and not config.tie_word_embeddings:
            value = noise
        else:
            value = 2.0 * noise / shape[1] ** 0.5
        tensors[name] = torch.tensor(value, dtype=torch.float32).to(parameter.dtype)
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


def _check_without_cache(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> None:
    """The cache of transformers keeps to the window; the mask of one whole pass is the plainer reference."""
    logits = prompt_logits(model, prompt + tokens[:-1])[len(prompt) - 1 :]
    if logits.argmax(-1).tolist() != tokens:
        raise SystemExit("transformers chooses other tokens with its cache than without")


def make(architecture: Architecture, variant: Variant, output: Path) -> str:
    """Writes one variant, with the first seed whose greedy text is well decided and varied; says which."""
    folder = output / architecture.name / variant.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_config(architecture, variant, folder)
    golden: dict[str, Any] = {}
    first_seed = 1000 * (architecture.variants.index(variant) + 1)
    vocab_size = architecture.entries(variant)["vocab_size"]
    for seed in range(first_seed, first_seed + 1000):
        _save_weights(_random_weights(architecture, folder, seed), folder, variant.shards)
        model = load(folder)
        prompt = np.random.default_rng(seed).integers(3, vocab_size, PROMPT_LENGTH).tolist()
        if variant.tokenizer:
            golden = tiny_tokenizer.write(folder)
            prompt = golden["prompt_ids"].tolist()
        tokens, gap = greedy(model, prompt, STEPS)
        if gap > MIN_GAP and len(set(tokens)) >= MIN_DISTINCT:
            break
    else:
        raise SystemExit(f"{folder}: no seed from {first_seed} on gives a usable greedy text")
    _check_without_cache(model, prompt, tokens)
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
        raise SystemExit(f"{folder}: {size} bytes, more than {MAX_BYTES}")
    return f"seed {seed}, gap {gap:.3f}, {len(set(tokens))} distinct tokens, {size} bytes"


def main() -> None:
    """Makes the variants that are named, or all of them."""
    parser = argparse.ArgumentParser(description="Golden outputs of tiny random checkpoints.")
    parser.add_argument("names", nargs="*", help="for example qwen3, or gemma3/mqa_early")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: tests/golden")
    flags = parser.parse_args()
    unknown = set(flags.names)
    for architecture in ARCHITECTURES:
        for variant in architecture.variants:
            name = f"{architecture.name}/{variant.name}"
            if not flags.names or {name, architecture.name} & set(flags.names):
                print(f"{name}: {make(architecture, variant, flags.output)}", flush=True)
            unknown -= {name, architecture.name}
    if unknown:
        parser.error(f"no such architecture or variant: {', '.join(sorted(unknown))}")


if __name__ == "__main__":
    main()
