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
from zml.models import llama

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
Weights = llama.Weights[jax.Array]
State = tuple[Weights, Weights, Weights]  # weights, first moments, second moments


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


def loss(config: llama.Config, weights: Weights, rows: jax.Array) -> jax.Array:
    """Mean cross entropy in nats of the rows [batch, n + 1]: each token predicts the next."""
    logits = jax.vmap(partial(llama.forward, config, weights))(rows[:, :-1])
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
    config: llama.Config, state: State, rows: jax.Array, count: jax.Array, rate: jax.Array
) -> tuple[State, jax.Array]:
    """One update; `count` is 1 at the first step, `rate` is the learning rate."""
    weights, means, squares = state

    def low_precision_loss(master: Weights) -> jax.Array:
        return loss(config, jax.tree.map(lambda w: w.astype(jnp.bfloat16), master), rows)

    value, gradient = jax.value_and_grad(low_precision_loss)(weights)
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / norm), gradient)
    in_layers = jax.tree.map(lambda _: True, weights.layers)
    use_muon = jax.tree.map(lambda _: False, weights)
    use_muon = llama.Weights(use_muon.embedding, in_layers, use_muon.norm, use_muon.lm_head)

    def update(w: Any, g: Any, m: Any, s: Any, in_layer: bool) -> tuple[Any, Any, Any]:
        if in_layer and w.ndim == 2:
            m = 0.95 * m + g
            scale = 0.2 * max(w.shape) ** 0.5  # brings the update to the size of Adam's
            return w * (1 - 0.1 * rate) - rate * scale * _orthogonal(g + 0.95 * m), m, s
        m, s = 0.9 * m + 0.1 * g, 0.99 * s + 0.01 * g * g
        direction = m / (1 - 0.9**count) / (jnp.sqrt(s / (1 - 0.99**count)) + 1e-9)
        return w - rate * direction, m, s

    updated = jax.tree.map(update, weights, gradient, means, squares, use_muon)
    outer = jax.tree.structure(weights)
    return jax.tree.transpose(outer, jax.tree.structure((0, 0, 0)), updated), value


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
    config = llama.Config.from_dict(CONFIG)
    tokenizer = Tokenizer.from_file(str(flags.work_dir / "tokenizer/tokenizer.json"))
    weights = llama.random_weights(config, jax.random.key(0))
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state: State = (weights, zeros(weights), zeros(weights))
    checkpoint = flags.work_dir / "checkpoint.npz"
    count, seconds_before = 0, 0.0
    if checkpoint.exists():
        state, count, seconds_before = restore(checkpoint, state)
    held_out = pack(flags.work_dir / "heldout.jsonl", tokenizer, 0)[:64]
    held_out_loss = jax.jit(partial(loss, config))
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
