"""Starts the process that compiles for absent hardware, and reads what it answered. See compile_child.py."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zml.errors import CompileError
from zml.pjrt.build_options import Flag

_PROGRAM = ("-m", "zml.pjrt.compile_child")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Kit:
    """What a child needs to compile for one description of hardware."""

    name: str
    """What the user calls it: `cuda:h100x4`."""
    target: str
    library: Path
    topology: str
    """The plugin's name of it."""
    options: Mapping[str, Any]
    """What the plugin needs beside the name."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 1800.0
    """How long one compilation may take."""
    memory_limit: int | None = None
    """Bytes of data that the child may have; None: what the machine has."""


@dataclass(frozen=True)
class Answer:
    """A compiled program, as the child found it."""

    memory: Mapping[str, int]
    cost: Mapping[str, float]
    peak_bytes: int
    """The most memory that the child, or a compiler that it called, took."""
    code: bytes
    hlo: bytes
    """zlib's."""

    def pack(self) -> bytes:
        """As bytes."""
        return pickle.dumps(vars(self))

    @staticmethod
    def unpack(blob: bytes) -> Answer:
        """What `pack` gave. Raises ValueError."""
        try:
            return Answer(**pickle.loads(blob))
        except Exception as error:
            raise ValueError(f"no compiled program of this version: {error}") from error


def ask(kit: Kit) -> dict[str, Any]:
    """The devices of a description, and the runtime. Raises CompileError."""
    with tempfile.TemporaryDirectory(prefix="zml-describe-") as folder:
        return _run(kit, Path(folder), {"devices": None}, min(kit.timeout_seconds, 300.0))


def compile_module(
    kit: Kit, module: bytes, devices: Sequence[int], shardy: bool, flags: Mapping[str, Flag]
) -> Answer:
    """Compiles for the devices with these ids. Raises CompileError: refused, crashed, too slow or out of memory."""
    request = {"devices": list(devices), "shardy": shardy, "flags": list(flags.items())}
    with tempfile.TemporaryDirectory(prefix="zml-compile-") as name:
        folder = Path(name)
        (folder / "module.bc").write_bytes(module)
        found = _run(kit, folder, request, kit.timeout_seconds)
        return Answer(
            found["memory"],
            found["cost"],
            found["peak_bytes"],
            (folder / "program.bin").read_bytes(),
            zlib.compress((folder / "hlo.txt").read_bytes(), 1),
        )


def _run(kit: Kit, folder: Path, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    ours = {
        "library": str(kit.library),
        "topology": kit.topology,
        "options": dict(kit.options),
        "memory_limit": kit.memory_limit,
    }
    (folder / "request.json").write_text(json.dumps({**ours, **request}), "utf-8")
    # The child finds the packages that this process found, under Bazel, in an image and without either.
    path = os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
    environment = {**os.environ, **kit.environment, "PYTHONPATH": path}
    try:
        with (folder / "said").open("w+b") as said:
            # A process group of its own: with the child end the compilers that it calls.
            process = subprocess.Popen(
                [sys.executable, *_PROGRAM, str(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
    except OSError as error:
        raise CompileError(f"the compiling process cannot be started: {error}") from error
    words = _last_words((folder / "said").read_text("utf-8", "replace"))
    if code is None:
        raise CompileError(
            f"the compiling process was ended after {seconds:g} s, the longest that it may take "
            f"(timeout_seconds); {words}"
        )
    answer = folder / "answer.json"
    if not answer.is_file():
        raise CompileError(_ending(kit, code, words))
    found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    if "error" in found:
        raise CompileError(found["error"])
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ending(kit: Kit, code: int, words: str) -> str:
    """Why there is no answer."""
    limit = "" if kit.memory_limit is None else f" (memory_limit: {kit.memory_limit} bytes)"
    if "bad_alloc" in words or "MemoryError" in words or "out of memory" in words.lower():
        return f"the compiling process ran out of memory{limit}; {words}"
    if code == -signal.SIGKILL:
        return (
            "the compiling process was killed (SIGKILL), as the system does to a process when memory is short; "
            f"compile where there is more; {words}"
        )
    if code < 0:
        name = signal.Signals(-code).name
        return (
            f"the compiling process crashed ({name}){limit}; XLA crashes where the description of the device lacks "
            f"what it needs, where it has no memory, and where it has a fault; {words}"
        )
    return f"the compiling process ended with exit code {code}; {words}"


_FRAME = re.compile(
    r"^\s*(@\s|#\d+\s|0x[0-9a-f]+\b|\*\*\* |Fatal Python error|Current thread|File \"|Thread 0x)"
)
_NOISE = re.compile(r"^(I\d{4} |WARNING: All log messages|W\d{4} )")


def _last_words(text: str) -> str:
    """What it said last, without the addresses of a stack trace and without the log's information."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not _FRAME.match(line) and not _NOISE.match(line)]
    fatal = [line for line in kept if re.match(r"^F\d{4} |.*Check failed|.*bad_alloc", line)]
    chosen = (fatal or kept)[-5:]
    return f"it said: {' | '.join(chosen):.1500}" if chosen else "it said nothing"
