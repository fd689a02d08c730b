"""The work that each peer does, timed: the job comes as JSON on stdin, the answer goes as JSON to stdout."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from tools.bench import limits
from tools.bench.llm.peers import process


class Peer(Protocol):
    """A loaded model with one sequence."""

    def clear(self) -> None:
        """Forgets the sequence."""

    def extend(self, tokens: list[int]) -> int:
        """Runs tokens after those before them; the likeliest next one."""

    def about(self) -> dict[str, Any]:
        """`about`: versions and settings; `model_bytes` and `weight_bytes` where the peer knows them: of all weights,
        and of those that a decode step reads."""


def run(load: Callable[[dict[str, Any]], Peer]) -> None:
    """Reads a job, loads the peer, does the job's runs and prints what they took.

    A run is a prompt, its first `prefill` tokens in one timed piece, the rest, and `decode_tokens` steps after it; then
    `pairs` times `pair_steps` more between probes of the read bandwidth.
    """
    job = json.load(sys.stdin)
    began = time.perf_counter()
    peer = load(job)
    loaded = time.perf_counter() - began
    warm_up = job["runs"][0]
    peer.extend(warm_up["prompt"][: job["first_prompt"]])
    first = process.age(job["started"])
    # What the first calls set up is not what is measured.
    peer.clear()
    peer.extend([peer.extend(warm_up["prompt"][: warm_up["prefill"]])])
    runs = [_run(peer, each, job["decode_tokens"]) for each in job["runs"]]
    answer = {
        "load_seconds": loaded,
        "first_token_warm_seconds": first,
        "runs": runs,
        "peak_rss_bytes": process.peak_rss(),
        **peer.about(),
    }
    # Afterwards, as the probes take memory. The last run's sequence is still there.
    for each, found in list(zip(job["runs"], runs, strict=True))[::-1]:
        if found is not runs[-1]:
            peer.clear()
            peer.extend(each["prompt"])
        found["pairs"] = _pairs(peer, found["tokens"][-1], job)
    print(json.dumps(answer))


def _run(peer: Peer, run: dict[str, Any], steps: int) -> dict[str, Any]:
    peer.clear()
    prompt, prefill = run["prompt"], run["prefill"]
    began = time.perf_counter()
    token = peer.extend(prompt[:prefill])
    prefilled = time.perf_counter() - began
    if prompt[prefill:]:
        token = peer.extend(prompt[prefill:])
    tokens = [token]
    began = time.perf_counter()
    for _ in range(steps):
        tokens.append(peer.extend(tokens[-1:]))
    return {
        "prefill_seconds": prefilled,
        "decode_seconds": time.perf_counter() - began,
        "tokens": tokens,
    }


def _pairs(peer: Peer, token: int, job: dict[str, Any]) -> list[tuple[float, float]]:
    """Seconds of a step, and GB/s that the memory was read at around it."""
    steps = job["pair_steps"]

    def decode() -> float:
        nonlocal token
        began = time.perf_counter()
        for _ in range(steps):
            token = peer.extend([token])
        return (time.perf_counter() - began) / steps

    return limits.beside_reading(decode, job["pairs"], job["threads"], job["probe_megabytes"])
