"""Tests of several processes that form one platform, all on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def free_address() -> str:
    """A host:port that nobody listens at, for now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def run_together(module: str, processes: int = 2, seconds: float = 240) -> None:
    """Calls `run_process(number, address)` of a module in so many processes; fails with the output of one that does."""
    code = "import sys, importlib; importlib.import_module(sys.argv[1]).run_process(int(sys.argv[2]), sys.argv[3])"
    path = os.pathsep.join([*filter(None, sys.path), str(Path.cwd())])
    address = free_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, module, str(process), address],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, outputs, strict=True):
        assert process.returncode == 0, output
