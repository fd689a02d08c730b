"""What the command lines of benchmarks have in common: lists, paths, and the processors that are used."""

import os
from pathlib import Path


def names(text: str) -> list[str]:
    """A flag's `a,b`."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """A flag's `1,2`. Raises ValueError for what is no integer."""
    return [int(number) for number in text.split(",")]


def users_path(path: str) -> Path:
    """A path as the user meant it: `bazel run` starts programs in another folder than it was called in."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", ""), Path(path).expanduser())


def cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cpus(threads: int) -> None:
    """Keeps this process and its children to so many processors, where the system can: XLA starts a thread for each."""
    if hasattr(os, "sched_setaffinity") and threads < cpus():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
