"""Runs pytest as Bazel runs a test: its environment says where results and temporary files go."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def arguments(environment: dict[str, str]) -> list[str]:
    """pytest's options for the test environment that Bazel's documentation describes."""
    options = ["-p", "no:cacheprovider", "--config-file=pyproject.toml", "--rootdir=."]
    if temporary := environment.get("TEST_TMPDIR"):
        options.append(f"--basetemp={temporary}/pytest")
    if report := environment.get("XML_OUTPUT_FILE"):
        options.append(f"--junitxml={report}")
    if expression := environment.get("TESTBRIDGE_TEST_ONLY"):
        options += ["-k", expression]
    return options


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    if "TEST_TMPDIR" in os.environ:
        os.environ["HOME"] = os.environ["TEST_TMPDIR"]
    code = pytest.main([*arguments(dict(os.environ)), *sys.argv[1:]])
    if "TEST_TMPDIR" in os.environ:
        # Bazel does the same, but ends itself at a name that its locale cannot hold.
        shutil.rmtree(Path(os.environ["TEST_TMPDIR"], "pytest"), ignore_errors=True)
    sys.exit(code)
