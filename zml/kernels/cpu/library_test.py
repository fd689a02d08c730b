"""The library is found, or it is said why not. Each in a process of its own: it is loaded once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zml.kernels.cpu import library

_SHOW = "from zml.kernels.cpu.library import load; print(load())"
_HERE = library.load()
_needs_library = pytest.mark.skipif(
    not library.available(), reason="the native library is not here"
)


def _load(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _SHOW],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@_needs_library
def test_the_best_instruction_set_is_taken_or_the_one_that_is_asked_for() -> None:
    assert isinstance(_HERE, library.Library)
    assert _load().stdout.startswith(f"{_HERE.isa}, ")
    assert _load(ZML_CPU_ISA="portable").stdout.startswith("portable, ")


@_needs_library
@pytest.mark.parametrize(
    ("isa", "said"), [("sse9", "is unknown; this processor has .*portable"), ("neon_bf16", "")]
)
def test_an_instruction_set_that_is_not_there_is_an_error(isa: str, said: str) -> None:
    if isinstance(_HERE, library.Library) and _HERE.isa.startswith("neon"):
        pytest.skip("this processor has it, or may have")
    run = _load(ZML_CPU_ISA=isa)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert f"ZML_CPU_ISA={isa}" in last
    assert re.search(said, last)


@_needs_library
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
def test_it_keeps_no_more_processors_busy_than_the_process_may_use() -> None:
    one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); {_SHOW}"
    run = subprocess.run(
        [sys.executable, "-c", one],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip().endswith(", 1 processors")


def test_without_the_library_it_is_said_why() -> None:
    assert _load(ZML_CPU_KERNELS="none").stdout == "none: ZML_CPU_KERNELS=none\n"


def test_a_path_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    run = _load(ZML_CPU_KERNELS=str(tmp_path / "gone.so"))
    assert run.returncode != 0
    assert "there is no such file" in run.stderr
    (tmp_path / "text.so").write_text("no library")
    assert "cannot be loaded" in _load(ZML_CPU_KERNELS=str(tmp_path / "text.so")).stderr
