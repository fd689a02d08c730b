"""Each sanitizer of the C++ toolchain finds what it is for, in a program that is faulty on purpose."""

import os
import re
import shutil
import subprocess

import pytest

REPORT = 66  # the exit code of a program that a sanitizer ends


def run(sanitizer: str, fault: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [os.environ[f"FAULTY_{sanitizer}"], fault], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("sanitizer", "fault", "report"),
    [
        ("address", "heap-overflow", "AddressSanitizer: heap-buffer-overflow"),
        ("address", "use-after-free", "AddressSanitizer: heap-use-after-free"),
        ("address", "stack-overflow", "AddressSanitizer: stack-buffer-overflow"),
        ("address", "leak", "LeakSanitizer: detected memory leaks"),
        ("address", "signed-overflow", "runtime error: signed integer overflow"),
        ("thread", "data-race", "ThreadSanitizer: data race"),
        ("undefined", "signed-overflow", "runtime error: signed integer overflow"),
    ],
)
def test_a_fault_is_reported(sanitizer: str, fault: str, report: str) -> None:
    result = run(sanitizer, fault)
    assert report in result.stderr
    assert result.returncode == REPORT


@pytest.mark.parametrize("sanitizer", ["address", "thread", "undefined"])
def test_a_program_without_fault_is_left_alone(sanitizer: str) -> None:
    result = run(sanitizer, "none")
    assert (result.returncode, result.stdout) == (0, "not noticed: 0\n")


@pytest.mark.skipif(
    not any(map(shutil.which, ["llvm-symbolizer", "addr2line"])),
    reason="neither llvm-symbolizer nor addr2line is on PATH",
)
@pytest.mark.parametrize(
    ("sanitizer", "fault", "function"),
    [("address", "heap-overflow", "HeapOverflow"), ("thread", "data-race", "DataRace")],
)
def test_a_report_names_function_and_file(sanitizer: str, fault: str, function: str) -> None:
    report = run(sanitizer, fault).stderr
    assert function in report
    assert re.search(r"faulty\.cc:\d+", report)
