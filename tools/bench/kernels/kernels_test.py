"""The benchmark runs each kernel with each contender and prints what it promises; speed is for no test."""

import json

import pytest

from tools.bench.kernels.cases import KERNELS
from tools.bench.kernels.main import main
from zml.kernels.cpu import library

FAST = ["--quick", "--threads=1"]


def test_every_kernel_is_measured(capfd: pytest.CaptureFixture[str]) -> None:
    isa = library.load()
    isas = [] if isinstance(isa, library.Missing) else [isa.isa]
    assert main([*FAST, f"--isas={','.join(isas)}", "--json"]) == 0
    results = json.loads(capfd.readouterr().out)["results"]
    assert results.keys() == {*isas, "xla"}
    for answer in results.values():
        assert answer["kernels"].keys() == KERNELS.keys()
        for by_rows in answer["kernels"].values():
            assert by_rows.keys() == {"1", "20"}
            assert all(result["seconds"] >= result["least_seconds"] > 0 for result in by_rows.values())  # fmt: skip
            assert by_rows["1"]["share_of_read"] > 0


def test_the_table_says_which_instruction_set_is_not_here(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([*FAST, "--isas=avx3", "--kernels=int4"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith("avx3: ") for line in lines) and "f32 peak" in lines[0]
    assert lines[2].split() == ["rows", "xla"] and lines[3].startswith("int4")


def test_misuse(capfd: pytest.CaptureFixture[str]) -> None:
    for argument, complaint in (
        ("--kernels=int5", "int5 is not known"),
        ("--rows=0", "at least 1"),
    ):
        with pytest.raises(SystemExit):
            main([argument])
        assert complaint in capfd.readouterr().err
