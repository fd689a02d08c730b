"""Measured processes, one at a time: each gets a job on stdin and answers on stdout; how quiet it was is added."""

import contextlib
import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench import environment

MAX_OTHER_CPU = 0.05
"""A process during which others took more than this of the processors' time was measured in noise."""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Lock:
    """A file that benchmarks sharing a machine lock while they measure; after `wait` seconds one goes on without."""

    path: Path | None = None
    wait: float = 300.0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock, if there is one."""
        if self.path is None:
            yield
            return
        with self.path.open("a") as file:
            deadline = time.monotonic() + self.wait
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        print(f"{self.path}: still locked, going on", file=sys.stderr)
                        break
                    time.sleep(0.05)
            yield


def peer_environment() -> dict[str, str]:
    """For another interpreter: the repository's own modules, none of the packages of this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def run(
    python: str | None, module: str, job: Mapping[str, Any], lock: Lock | None = None
) -> dict[str, Any]:
    """The answer of `python -m module` (None: this interpreter), or {"error": ...} where it fails.

    `other_cpu` is added to it: the share of the machine's processor time that other processes took meanwhile.
    """
    command: Sequence[str] = [python or sys.executable, "-m", module]
    with (lock or Lock()).held():
        before, own = _busy(), _children()
        done = subprocess.run(
            command,
            input=json.dumps({**job, "started": time.monotonic()}),
            capture_output=True,
            text=True,
            env=peer_environment() if python else environment(),
        )
        after, own = _busy(), _children() - own
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if before and after:
        total = after[1] - before[1]
        answer["other_cpu"] = max(0.0, (after[0] - before[0] - own) / total) if total else 0.0
    return answer


def is_noisy(answer: Mapping[str, Any]) -> bool:
    """Whether the machine was busy with something else."""
    return bool(answer.get("other_cpu", 0.0) > MAX_OTHER_CPU)


def _busy() -> tuple[float, float] | None:
    """Seconds that all processors worked, and that passed on all of them. None where no one says."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    ticks = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]]
    second = os.sysconf("SC_CLK_TCK")
    # user nice system idle iowait irq softirq steal
    return (sum(ticks) - ticks[3] - ticks[4]) / second, sum(ticks) / second


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
