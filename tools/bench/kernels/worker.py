"""Measures kernels in a process of its own: a job on stdin, the answer on stdout, both JSON.

The job: `contender` (xla, or an instruction set), `kernels`, `rows`, `seconds` of measuring each, `sizes`, `few` (up to
so many rows are read beside), `threads` and `probe_megabytes` of the probe.
The answer: {"kernels": {kernel: {rows: figures}}}, or why the contender is not available.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from tools.bench import limits

if TYPE_CHECKING:
    from tools.bench.kernels.cases import Case

_PAIRS = 5


def main() -> None:
    """Does the job."""
    job: dict[str, Any] = json.load(sys.stdin)
    native = job["contender"] != "xla"
    if native:
        # The library chooses when it is loaded.
        os.environ["ZML_CPU_ISA"] = job["contender"]

    import jax

    from tools.bench.kernels.cases import KERNELS, Sizes
    from zml.errors import UsageError
    from zml.kernels.cpu import library

    if native:
        try:
            found = library.load()
        except UsageError as error:
            return print(json.dumps({"unavailable": str(error)}))
        if isinstance(found, library.Missing):
            return print(json.dumps({"unavailable": found.reason}))
    sizes = Sizes(**job["sizes"])
    with jax.default_device(jax.devices("cpu")[0]):
        times = {
            name: {
                rows: measure(KERNELS[name](sizes, rows, native), job, rows <= job["few"])
                for rows in job["rows"]
            }
            for name in job["kernels"]
        }
    print(json.dumps({"kernels": times}))


def measure(case: Case, job: dict[str, Any], beside_reading: bool) -> dict[str, float]:
    """Median seconds of a call, the least, and what a call reads and does; and its share of the read bandwidth.

    That is the median over several times some calls, each with the bandwidth of just before and after it.
    """
    import jax

    for arguments in case.arguments[:2]:
        jax.block_until_ready(case.call(*arguments))
    all_seconds: list[float] = []

    def calls() -> float:
        seconds: list[float] = []
        end = time.perf_counter() + job["seconds"] / _PAIRS
        while time.perf_counter() < end or len(seconds) < 3:
            arguments = case.arguments[len(all_seconds) % len(case.arguments)]
            began = time.perf_counter()
            jax.block_until_ready(case.call(*arguments))
            seconds.append(time.perf_counter() - began)
            all_seconds.append(seconds[-1])
        return statistics.median(seconds)

    figures: dict[str, float] = {"bytes": case.bytes, "flops": case.flops}
    if beside_reading:
        pairs = limits.beside_reading(calls, _PAIRS, job["threads"], job["probe_megabytes"])
        shares = [case.bytes / seconds / 1e9 / read for seconds, read in pairs]
        figures["share_of_read"] = statistics.median(shares)
    else:
        for _ in range(_PAIRS):
            calls()
    return figures | {"seconds": statistics.median(all_seconds), "least_seconds": min(all_seconds)}


if __name__ == "__main__":
    main()
