"""What narrower weights cost: perplexity and logits of a checkpoint in bfloat16, int8 and int4 beside float32.

The text is held out from the demo's training: every 17th of the conversations about 2 % of WordNet's synsets
(tools/demo/corpus.py). The LICENSE of examples/llm/demo is theirs too.
python -m tools.bench.quality [--model=DIR] [--text=FILE] [--window=512] [--step=512] [--json]
"""

import argparse
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zml.attention import KvCache
from zml.io import TensorStore, load
from zml.llm.engine import Engine
from zml.models import Decoder
from zml.platform import Platform
from zml.shape import Shape
from zml.tensor import Tensor

_ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = Path(__file__).with_name("heldout.txt")
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "float32", "quantize": "int8"},
    "int4": {"dtype": "float32", "quantize": "int4"},
}
"""How the checkpoint is opened; the first is what the others are compared with."""


@dataclass
class Quality:
    """How a variant does on a text."""

    perplexity: float
    mean_error: float
    """Of the logits' absolute differences from those of float32."""
    max_error: float
    same_token: float
    """The share of positions at which the likeliest token is that of float32."""
    decode_weight_bytes: int


def logits(engine: Engine, windows: np.ndarray, step: int) -> list[np.ndarray]:
    """The logits [s, voc] in float32 of each row of token ids [n, s], of which `step` are run at a time."""
    deployment = engine.deployment
    platform, among = deployment.platform, [deployment.sharding]
    store = TensorStore.open(engine.checkpoint.folder.url, engine.checkpoint.folder.vfs)
    weights = load(deployment.model, store, platform, shardings=among)

    def forward(
        model: Decoder, cache: KvCache, tokens: Tensor, start: Tensor
    ) -> tuple[Tensor, KvCache]:
        hidden, cache = model.hidden_states(tokens, start, cache)
        return model.logits(hidden), cache

    shapes = Shape({"s": step}, "i32"), Shape({}, "i32")
    exe = platform.compile(forward, deployment.model, deployment.cache(), *shapes, shardings=among)

    def run(row: np.ndarray) -> np.ndarray:
        cache, found = platform.zeros(deployment.cache(), sharding=among[0]), []
        for start in range(0, len(row), step):
            values = row[start : start + step], np.int32(start)
            tokens, at = (
                platform.put(value, shape, sharding=among[0])
                for value, shape in zip(values, shapes, strict=True)
            )
            some, cache = exe(weights, cache, tokens, at)
            found.append(some.numpy().astype(np.float32))
        return np.concatenate(found)

    return [run(row) for row in windows]


def cross_entropy(rows: np.ndarray, following: np.ndarray) -> float:
    """The mean of -log p of the tokens that follow, in nats."""
    wide = rows.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    picked = np.take_along_axis(wide, following[:, None], -1)[:, 0]
    return float(np.mean(np.log(np.exp(wide).sum(-1)) - picked))


def measure(model: str, text: str, window: int, step: int) -> dict[str, Quality]:
    """All variants, on the lines of a text laid end to end and cut into windows of so many tokens, `step` at a time."""
    platform = Platform.init("cpu")
    report: dict[str, Quality] = {}
    reference: list[np.ndarray] = []
    for name, arguments in VARIANTS.items():
        engine = Engine.open(model, platform, seqlen=window, **arguments)
        ids = [token for line in text.splitlines() for token in engine.encode(line)]
        count = (len(ids) - 1) // window
        if count == 0:
            raise SystemExit(
                f"the text has {len(ids)} tokens, expected more than --window={window}"
            )
        windows = np.array(ids[: count * window], np.int32).reshape(count, window)
        following = np.array(ids[1 : count * window + 1]).reshape(count, window)
        found = logits(engine, windows, step)
        reference = reference or found
        losses = [cross_entropy(*pair) for pair in zip(found, following, strict=True)]
        errors = [np.abs(a - b) for a, b in zip(found, reference, strict=True)]
        same = [
            np.mean(a.argmax(-1) == b.argmax(-1)) for a, b in zip(found, reference, strict=True)
        ]
        report[name] = Quality(
            perplexity=round(math.exp(float(np.mean(losses))), 4),
            mean_error=round(float(np.mean([e.mean() for e in errors])), 5),
            max_error=round(float(max(e.max() for e in errors)), 4),
            same_token=round(float(np.mean(same)), 4),
            decode_weight_bytes=engine.decode_weight_bytes(),
        )
    return report


def main() -> None:
    """Prints a line for each variant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=str(_ROOT / "examples/llm/demo"))
    parser.add_argument("--text", type=Path, default=HELD_OUT)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument(
        "--step",
        type=int,
        help="tokens at a time, which divide the window; 1: as they are decoded; default: all",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    step = options.window if options.step is None else options.step
    if step < 1 or options.window % step:
        parser.error(f"--step={step}: expected a divisor of --window={options.window}")
    report = measure(options.model, options.text.read_text("utf-8"), options.window, step)
    if options.json:
        print(json.dumps({name: asdict(quality) for name, quality in report.items()}))
        return
    print(f"{'':10}perplexity  logits off by: mean    at most  same token  bytes a step")
    for name, q in report.items():
        print(
            f"{name:10}{q.perplexity:10.3f}  {q.mean_error:19.5f}  {q.max_error:9.4f}  {q.same_token:10.2%}  "
            f"{q.decode_weight_bytes:12,}"
        )


if __name__ == "__main__":
    main()
