"""The work that each peer does, timed: the job comes as JSON on stdin, the answer goes as JSON to stdout."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

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

    A run is a prompt, its first `prefill` tokens in one timed piece, the rest, and `decode_tokens` steps after it.
    """
    job = json.load(sys.stdin)
    began = time.perf_counter()
    peer = load(job)
    loaded = time.perf_counter() - began
    # Warms up what the first calls set up, and is the first token that a user waits for.
    token = peer.extend(job["runs"][0]["prompt"][: job["runs"][0]["prefill"]])
    first = process.age(job["started"])
    peer.extend([token])
    answer = {
        "load_seconds": loaded,
        "first_token_warm_seconds": first,
        "runs": [_run(peer, each, job["decode_tokens"]) for each in job["runs"]],
        "peak_rss_bytes": process.peak_rss(),
        **peer.about(),
    }
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
