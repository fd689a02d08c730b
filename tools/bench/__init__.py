"""Benchmarks: each prints a figure beside its peer or its limit, measured in the same run."""

import os
import sys


def environment() -> dict[str, str]:
    """For a process of its own that finds the same packages, under Bazel and without it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), os.getcwd()])}  # noqa: PTH109
