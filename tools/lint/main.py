"""Runs a checker over the files of a list: `main.py ruff|mypy LIST`, beside pyproject.toml.

`main.py list LIST` prints the files instead; `main.py fix` mends and formats the source tree.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def ruff() -> str:
    """Path of the program ruff, which its wheel brings."""
    spec = importlib.util.find_spec("ruff")
    if spec is None or spec.origin is None:
        raise SystemExit("no module ruff: run this with ./bazel")
    return str(Path(spec.origin).parent.parent / "bin/ruff")


def commands(tool: str, files: list[str]) -> list[list[str]]:
    """The commands that check `files`; all of them must succeed."""
    if tool == "ruff":
        check = ["check", "--no-cache", "--quiet"]
        layout = ["format", "--no-cache", "--check", "--diff", "--quiet"]
        return [
            [ruff(), *options, "--config=pyproject.toml", *files] for options in (check, layout)
        ]
    if tool == "mypy":
        cache = os.environ.get("TEST_TMPDIR", os.devnull)
        options = ["--config-file=pyproject.toml", f"--cache-dir={cache}", "--no-error-summary"]
        return [[sys.executable, "-m", "mypy", *options, *files]]
    if tool == "fix":
        os.chdir(os.environ["BUILD_WORKSPACE_DIRECTORY"])
        return [[ruff(), "check", "--no-cache", "--fix"], [ruff(), "format", "--no-cache"]]
    if tool == "list":
        return [["printf", "%s\\n", *files]]
    raise SystemExit(f"unknown tool {tool!r}: expected ruff, mypy, fix or list")


if __name__ == "__main__":
    listed = Path(sys.argv[2]).read_text().split() if len(sys.argv) > 2 else []
    sys.exit(max(subprocess.run(c, check=False).returncode for c in commands(sys.argv[1], listed)))
