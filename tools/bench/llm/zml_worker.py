"""zml's part of the job of peers/driver.py, through zml.llm as the llm example uses it, in a process of its own.

A job with `first_token` stops after the first token, of a prompt of `first_prompt` tokens.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

from tools.bench import limits
from tools.bench.llm.peers import process
from zml.compile import ExecutableCache
from zml.llm.decoding import AHEAD
from zml.llm.engine import Engine
from zml.llm.sampling import Sampling
from zml.model_tree import byte_size
from zml.platform import Platform


def _open(job: dict[str, Any]) -> Engine:
    platform = Platform.init("cpu", cache=ExecutableCache(Path(job["executables"])))
    return Engine.open(
        job["model"], platform, dtype=job["dtype"], seqlen=job["context"], quantize=job["quantize"]
    )


def main() -> None:
    """Reads a job from stdin, prints what it took."""
    job = json.load(sys.stdin)
    runs, steps = job["runs"], job["decode_tokens"]
    engine = _open(job)
    first = runs[0]["prompt"][: job["first_prompt"]]
    engine.start(len(first) if job["first_token"] else None)
    generation = engine.generate(first, Sampling(), 2, ignore_eos=True)
    next(generation)
    age = process.age(job["started"])
    if job["first_token"]:
        timings = engine.timings
        print(
            json.dumps(
                {
                    "seconds": age,
                    "compile_cached": timings.compile_cached,
                    "load_seconds": timings.load,
                }
            )
        )
        return
    for _ in generation:  # a decode step, which is warm then
        pass
    measured = [_run(engine, run, steps) for run in runs]
    answer = {
        "load_seconds": engine.timings.load,
        "compile_seconds": engine.timings.compile,
        "compile_cached": engine.timings.compile_cached,
        "runs": measured,
        "weight_bytes": engine.decode_weight_bytes(),
        "model_bytes": byte_size(engine.deployment.model),
        "kv_cache_bytes": byte_size(engine.deployment.cache()),
        "peak_rss_bytes": process.peak_rss(),
        "about": {
            "version": jax.__version__,
            "kernels": str(engine.deployment.platform.kernels),
            "dtype": str(engine.deployment.dtype),
            "attention": engine.deployment.backend,
        },
    }
    # Afterwards, as the probes take memory. The last run's prompt is still in the KV cache.
    for run, found in list(zip(runs, measured, strict=True))[::-1]:
        found["python_share"] = _python_share(engine, run["prompt"], steps)
        found["pairs"] = _pairs(engine, run["prompt"], job)
    print(json.dumps(answer))


def _run(engine: Engine, run: dict[str, Any], steps: int) -> dict[str, Any]:
    prompt, prefill = run["prompt"], run["prefill"]
    # Another first token than the last generation's: nothing of the KV cache is used again.
    other = [(prompt[0] + 1) % engine.deployment.config.vocab_size]
    _generate(engine, other, 1)
    _generate(engine, prompt[:prefill], 1)
    prefilled = engine.session.stats.first_token_seconds
    assert engine.session.stats.prefilled_tokens >= prefill
    tokens = _generate(engine, prompt, steps + 1)
    stats = engine.session.stats
    return {
        "prefill_seconds": prefilled,
        "decode_seconds": stats.last_token_seconds - stats.first_token_seconds,
        "tokens": tokens,
    }


def _pairs(engine: Engine, prompt: list[int], job: dict[str, Any]) -> list[tuple[float, float]]:
    """Seconds of a step, and GB/s that the memory was read at around it."""
    steps = job["pair_steps"]

    def decode() -> float:
        _generate(engine, prompt, steps + 1)
        stats = engine.session.stats
        return (stats.last_token_seconds - stats.first_token_seconds) / steps

    return limits.beside_reading(decode, job["pairs"], job["threads"], job["probe_megabytes"])


def _python_share(engine: Engine, prompt: list[int], steps: int) -> float:
    """How much of a step this thread, which is the one with Python in it, keeps a processor busy, jaxlib's part of a
    call included. Of whole calls of the program, which has several steps where it loops itself."""
    steps = -(-steps // AHEAD) * AHEAD
    pieces = engine.generate(prompt, Sampling(), steps + AHEAD, ignore_eos=True)
    for _ in range(2):
        next(pieces)
    busy, began = time.thread_time(), time.perf_counter()
    for _ in range(steps):
        next(pieces)
    return (time.thread_time() - busy) / (time.perf_counter() - began)


def _generate(engine: Engine, prompt: list[int], count: int) -> list[int]:
    pieces = engine.generate(prompt, Sampling(), count, ignore_eos=True)
    return [piece.token for piece in pieces if piece.token is not None]


if __name__ == "__main__":
    main()
