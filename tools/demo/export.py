"""Writes the trained demo checkpoint in Hugging Face layout, with its model card.

    python -m tools.demo.export --work_dir=DIR --output=examples/llm/demo

reads DIR/checkpoint.npz, DIR/tokenizer and DIR/heldout.jsonl. The held-out loss in the model card is that
of the bfloat16 weights as written, computed in float32.
"""

import argparse
import json
import math
import shutil
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tools.demo import wordnet
from tools.demo.tokenizer import BOS, END
from tools.demo.train import BATCH, CONFIG, SEQUENCE, loss, pack, sources
from zml.io import View
from zml.model_tree import is_leaf
from zml.models import Decoder, llama
from zml.models.decoder_config import Config


@dataclass(frozen=True)
class HeldOutLoss:
    """Cross entropy over the held-out conversations, in nats; special tokens count as tokens, not as bytes."""

    per_token: float
    per_byte: float
    tokens: int


def decoder(config: Config, arrays: Iterable[Any]) -> Decoder:
    """The model of these weights, given in the order of its leaves and in any shape with as many elements."""
    declared, tree = jax.tree.flatten(llama.init(View.blank("f32"), config), is_leaf=is_leaf)
    values = (jnp.asarray(array, jnp.float32) for array in arrays)
    pairs = zip(declared, values, strict=True)
    made: Decoder = jax.tree.unflatten(
        tree, [x.with_value(value.reshape(x.shape.dims)) for x, value in pairs]
    )
    return made


def trained_weights(path: Path, config: Config) -> tuple[Decoder, int]:
    """The float32 masters of a training checkpoint, and how many steps it has seen."""
    with np.load(path) as saved:
        # The weights come before their moments.
        arrays = [saved[str(i)] for i in range(len(sources(config)))]
        return decoder(config, arrays), int(saved["count"])


def save_weights(config: Config, weights: Decoder, path: Path) -> None:
    """Writes the weights in bfloat16 under their Hugging Face names."""
    tensors = {
        source.name: np.asarray(leaf.astype(jnp.bfloat16)).reshape(source.dims)
        for source, leaf in zip(sources(config), jax.tree.leaves(weights), strict=True)
    }
    save_file(tensors, path, metadata={"format": "pt"})


def load_weights(config: Config, path: Path) -> Decoder:
    """Reads what `save_weights` wrote, widened to float32."""
    tensors = load_file(path)
    return decoder(config, (tensors[source.name] for source in sources(config)))


def held_out_loss(weights: Decoder, tokenizer: Tokenizer, conversations: Path) -> HeldOutLoss:
    """The loss over all the rows that the conversations are packed into."""
    rows = pack(conversations, tokenizer, 0)
    rows = rows[: len(rows) // BATCH * BATCH]
    batch_loss = jax.jit(loss)
    losses = [float(batch_loss(weights, batch)) for batch in np.split(rows, len(rows) // BATCH)]
    predicted = rows[:, 1:]
    texts = tokenizer.decode_batch(predicted.tolist(), skip_special_tokens=True)
    per_token = float(np.mean(losses))
    text_bytes = sum(len(text.encode()) for text in texts)
    return HeldOutLoss(per_token, per_token * predicted.size / text_bytes, predicted.size)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a configuration file."""
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def model_card(weights: Decoder, steps: int, held_out: HeldOutLoss) -> str:
    """model_card.md with its figures filled in."""
    template = string.Template(Path(__file__).with_name("model_card.md").read_text("utf-8"))
    return template.substitute(
        parameters=f"{sum(leaf.size for leaf in jax.tree.leaves(weights)) / 1e6:.1f}",
        steps=steps,
        train_tokens=f"{steps * BATCH * SEQUENCE / 1e6:.1f}",
        loss=f"{held_out.per_token:.3f}",
        perplexity=f"{math.exp(held_out.per_token):.1f}",
        nats=f"{held_out.per_byte:.3f}",
        bits=f"{held_out.per_byte / math.log(2):.3f}",
        tokens=f"{held_out.tokens:,}",
    )


def main() -> None:
    """Writes every file of the checkpoint."""
    parser = argparse.ArgumentParser(description="Exports the demo checkpoint.")
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    flags = parser.parse_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    config = llama.read_config(CONFIG)
    weights, steps = trained_weights(flags.work_dir / "checkpoint.npz", config)
    save_weights(config, weights, flags.output / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(flags.work_dir / "tokenizer" / name, flags.output / name)
    tokenizer = Tokenizer.from_file(str(flags.output / "tokenizer.json"))
    ids = {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": tokenizer.token_to_id(END)}
    ids["pad_token_id"] = ids["eos_token_id"]
    write_json(flags.output / "config.json", {**CONFIG, **ids})
    sampling = {"do_sample": True, "temperature": 0.3, "top_p": 0.9}
    write_json(flags.output / "generation_config.json", {**ids, **sampling})
    exported = load_weights(config, flags.output / "model.safetensors")
    held_out = held_out_loss(exported, tokenizer, flags.work_dir / "heldout.jsonl")
    (flags.output / "README.md").write_text(model_card(weights, steps, held_out), "utf-8")
    license_text = wordnet.license_text(flags.work_dir / "wordnet/usr/share/wordnet")
    (flags.output / "LICENSE").write_text(license_text, "utf-8")
    print(held_out)


if __name__ == "__main__":
    main()
