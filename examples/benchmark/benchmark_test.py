"""The benchmark example, at sizes that take no time: what it reports, and what it refuses."""

import json

import pytest

from examples.benchmark.main import main
from examples.benchmark.measure import Timing, squares

_FAST = ["--seconds=0", "--peak_sizes=16,32", "--platform=cpu"]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "i8"])
def test_json(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--size=4,32,8", f"--dtype={dtype}", "--json", *_FAST]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["dtype"], report["size"], report["platform"]) == (dtype, [4, 32, 8], "cpu")
    assert report["gflops"] == pytest.approx(2 * 4 * 32 * 8 / report["median_seconds"] / 1e9)
    assert report["calls"] == 5 and report["best_seconds"] <= report["median_seconds"]
    assert report["peers"][0]["what"] == f"zml {dtype}"
    assert report["peers"][-1]["what"] == "numpy f32"
    best = max(peer["best_gflops"] for peer in [report, *report["peers"]])
    assert report["peak_gflops"] == best and 0 < report["ratio"] <= 1


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--size=4,32,8", *_FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("peak: ") and lines[-1].startswith("zml f32 4 x 32 x 8: ")
    assert lines[-1].endswith("% of it on cpu")


def test_squares_end_where_a_call_takes_too_long() -> None:
    tried = []

    def measure(size: tuple[int, int, int]) -> Timing:
        tried.append(size[0])
        return Timing("fake", size, size[0] ** 3 / 1000, 0.1, 5)

    # Sides of 10, 20, 40 take 1, 8 and 64 seconds.
    assert len(squares(measure, [40, 10, 20], 10)) == 2 and tried == [10, 20]


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--size=4,4", "expected three numbers m,k,n"),
        ("--size=4,0,4", "expected integers of 1 or more"),
        ("--size=", "expected integers of 1 or more"),
        ("--peak_sizes=a", "expected integers of 1 or more"),
        ("--dtype=f8", "value should be one of"),
    ],
)
def test_wrong_flags(flag: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", flag]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error(benchmark): ") and problem in error
