"""Trains the demo checkpoint: a small Llama, with the project's own forward pass.

    python -m tools.demo.train --work_dir=DIR --minutes=N

reads what corpus.py and tokenizer.py wrote into DIR, saves DIR/checkpoint.npz every few minutes and at
the end, and continues from it when it is there. Matrices inside the layers are updated by Muon (Jordan
et al. 2024), everything else by Adam, from float32 masters; the passes run in bfloat16. The learning
rate follows the clock, so that a run of N minutes ends at zero however busy the machine is.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from tools.demo.tokenizer import VOCAB_SIZE, conversation_text
from zml.declared import Source
from zml.io import View
from zml.model_tree import is_leaf, leaves
from zml.models import Decoder, llama
from zml.models.decoder_config import Config
from zml.tensor import Tensor

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "dtype": "bfloat16",
}
SEQUENCE = 512
BATCH = 8
# What is read until which part of the time is over. After all words come the well known ones and then
# the best known: in an hour nothing can be learned by heart that is seen only once.
PHASES = (("train.jsonl", 0.2), ("common.jsonl", 0.85), ("basic.jsonl", 1.0))
type State = tuple[Decoder, Decoder, Decoder]
"""Weights, first moments, second moments; the tensors of a Decoder are a pytree."""


def sources(config: Config) -> list[Source]:
    """Names and shapes in a checkpoint, in the order of the leaves of a Decoder."""
    return [x.source for x in leaves(llama.init(View.blank("f32"), config))]


def random_weights(config: Config, key: jax.Array) -> Decoder:
    """Weights to start training from: normal with std 0.02, ones for norms, zeros for biases."""
    declared, tree = jax.tree.flatten(llama.init(View.blank("f32"), config), is_leaf=is_leaf)

    def start(x: Tensor, key: jax.Array) -> Tensor:
        name = x.source.name if x.source else ""
        if name.endswith("norm.weight"):
            return x.with_value(jnp.ones(x.shape.dims))
        if name.endswith(".bias"):
            return x.with_value(jnp.zeros(x.shape.dims))
        return x.with_value(0.02 * jax.random.normal(key, x.shape.dims))

    keys = jax.random.split(key, len(declared))
    weights: Decoder = jax.tree.unflatten(tree, map(start, declared, keys))
    return weights


def pack(path: Path, tokenizer: Tokenizer, seed: int) -> np.ndarray:
    """The conversations of a .jsonl file, shuffled and laid end to end: [rows, SEQUENCE + 1] int32.

    A row begins with a whole conversation; what would be cut by the row's end starts the next row
    again, and the cut copy stays in the first row as well.
    """
    texts = [conversation_text(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    random.Random(seed).shuffle(texts)
    rows, row = [], []
    for encoding in tokenizer.encode_batch(texts):
        row += encoding.ids
        if len(row) > SEQUENCE:
            rows.append(row[: SEQUENCE + 1])
            row = encoding.ids if len(row) > SEQUENCE + 1 and len(encoding.ids) <= SEQUENCE else []
    return np.array(rows, np.int32)


def loss(weights: Decoder, rows: jax.Array | np.ndarray) -> jax.Array:
    """Mean cross entropy in nats of the rows [batch, n + 1]: each token predicts the next."""
    logits = jax.vmap(lambda row: weights.forward(Tensor(row, ("s",))).value)(rows[:, :-1])
    picked = jnp.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)


def _orthogonal(matrix: jax.Array) -> jax.Array:
    """Moves all singular values of a matrix near 1, by Muon's five Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def step(
    config: Config, state: State, rows: jax.Array, count: jax.Array, rate: jax.Array
) -> tuple[State, jax.Array]:
    """One update; `count` is 1 at the first step, `rate` is the learning rate."""

    def low_precision_loss(master: Decoder) -> jax.Array:
        return loss(jax.tree.map(lambda w: w.astype(jnp.bfloat16), master), rows)

    value, gradient = jax.value_and_grad(low_precision_loss)(state[0])
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / norm), gradient)

    def update(source: Source, g: Any, w: Any, m: Any, s: Any) -> tuple[Any, Any, Any]:
        if source.name.startswith("model.layers.") and len(source.dims) == 2:
            m = 0.95 * m + g
            scale = 0.2 * max(source.dims) ** 0.5  # brings the update to the size of Adam's
            # As the matrix that it is in a checkpoint: here its rows may be heads and their elements.
            direction = _orthogonal((g + 0.95 * m).reshape(source.dims)).reshape(w.shape)
            return w * (1 - 0.1 * rate) - rate * scale * direction, m, s
        m, s = 0.9 * m + 0.1 * g, 0.99 * s + 0.01 * g * g
        direction = m / (1 - 0.9**count) / (jnp.sqrt(s / (1 - 0.99**count)) + 1e-9)
        return w - rate * direction, m, s

    parts = map(jax.tree.leaves, (gradient, *state))
    updated = map(update, sources(config), *parts)
    tree = jax.tree.structure(state[0])
    weights, means, squares = (
        jax.tree.unflatten(tree, part) for part in zip(*updated, strict=True)
    )
    return (weights, means, squares), value


def learning_rate(peak: float, count: int, progress: float) -> float:
    """Linear warm-up over 40 steps, then constant, then linear decay over the last 60 percent."""
    return peak * min(1.0, count / 40, (1.0 - progress) / 0.6)


def batches(path: Path, tokenizer: Tokenizer, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of rows; each epoch shuffles the conversations anew."""
    for epoch in itertools.count(seed):
        rows = pack(path, tokenizer, epoch)
        for first in range(0, len(rows) - size + 1, size):
            yield rows[first : first + size]


def save(path: Path, state: State, count: int, seconds: float) -> None:
    """Writes the state; a crash while writing leaves the file that was there before."""
    arrays: dict[str, Any] = {
        str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))
    }
    partial_path = path.with_suffix(".partial.npz")
    np.savez(partial_path, count=count, seconds=seconds, **arrays)
    partial_path.rename(path)


def restore(path: Path, state: State) -> tuple[State, int, float]:
    """Reads what `save` wrote, in the structure of `state`: state, steps done, seconds spent."""
    with np.load(path) as saved:
        leaves, tree = jax.tree.flatten(state)
        leaves = [jnp.asarray(saved[str(i)]) for i in range(len(leaves))]
        return jax.tree.unflatten(tree, leaves), int(saved["count"]), float(saved["seconds"])


def main() -> None:
    """Trains until the time is up."""
    parser = argparse.ArgumentParser(description="Trains the demo checkpoint.")
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="time to train for")
    parser.add_argument("--peak_rate", type=float, default=3e-3)
    parser.add_argument("--save_seconds", type=float, default=240.0)
    flags = parser.parse_args()
    config = llama.read_config(CONFIG)
    tokenizer = Tokenizer.from_file(str(flags.work_dir / "tokenizer/tokenizer.json"))
    weights = random_weights(config, jax.random.key(0))
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state: State = (weights, zeros(weights), zeros(weights))
    checkpoint = flags.work_dir / "checkpoint.npz"
    count, seconds_before = 0, 0.0
    if checkpoint.exists():
        state, count, seconds_before = restore(checkpoint, state)
    held_out = pack(flags.work_dir / "heldout.jsonl", tokenizer, 0)[:64]
    held_out_loss = jax.jit(loss)
    phases = [
        (batches(flags.work_dir / name, tokenizer, BATCH, seed=count), until)
        for name, until in PHASES
    ]
    budget = 60.0 * flags.minutes
    started = saved = time.monotonic()
    seconds = seconds_before
    while seconds < budget:
        count += 1
        progress = seconds / budget
        rate = learning_rate(flags.peak_rate, count, progress)
        rows = next(next(phase for phase, until in phases if progress < until))
        state, value = step(config, state, rows, jnp.float32(count), jnp.float32(rate))
        if count % 20 == 0:
            print(f"step {count} loss {value:.4f} rate {rate:.2e} {seconds:.0f} s", flush=True)
        now = time.monotonic()
        seconds = seconds_before + now - started
        if now - saved > flags.save_seconds or seconds >= budget:
            save(checkpoint, state, count, seconds)
            print(f"step {count} held-out loss {held_out_loss(state[0], held_out):.4f}", flush=True)
            saved = now


if __name__ == "__main__":
    main()
