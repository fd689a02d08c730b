"""The safetensors library: load_file, then jax.device_put of every array."""

import json
import sys
import time

import jax
import safetensors
from safetensors.flax import load_file

from tools.bench.load.peers import files


def main() -> None:
    """Reads a job from stdin, prints its seconds."""
    job = json.load(sys.stdin)
    device = jax.local_devices(backend="cpu")[0]
    files.prepare(job)
    began = time.perf_counter()
    arrays = [jax.device_put(a, device) for name in job["files"] for a in load_file(name).values()]
    jax.block_until_ready(arrays)
    seconds = time.perf_counter() - began
    files.answer(
        seconds,
        sum(a.nbytes for a in arrays),
        f"safetensors {safetensors.__version__}",
    )


if __name__ == "__main__":
    main()
