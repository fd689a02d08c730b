"""The benchmarks run and print what they promise; how fast it was is no test's business."""

import json
import sys
from pathlib import Path

import pytest

from tools.bench import compile, dispatch, quality, startup


def report(
    main: object,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> dict[str, object]:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--json"])
    assert callable(main)
    main()
    found: dict[str, object] = json.loads(capfd.readouterr().out)
    return found


def test_dispatch(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    found = report(dispatch.main, ["--weights=20", "--rounds=3", "--devices=2"], monkeypatch, capfd)
    assert found["arguments"] == 23 and found["devices"] == 2
    assert all(isinstance(found[f"{name}_us"], float) for name in ("bare", "zml", "jit_model"))


def test_compile(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    found = report(compile.main, ["--layers=1", "--bucket=16"], monkeypatch, capfd)
    assert found["cold"]["cached"] is False and found["cached"]["cached"] is True  # type: ignore[index]


def test_startup(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    found = report(startup.main, ["--rounds=1"], monkeypatch, capfd)
    assert set(found) == set(startup.STEPS)


@pytest.mark.parametrize("step", [64, 2])
def test_quality(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, step: int
) -> None:
    lines = quality.HELD_OUT.read_text("utf-8").splitlines()
    (tmp_path / "text").write_text("\n".join(lines[:8]))
    flags = [f"--text={tmp_path / 'text'}", "--window=64", f"--step={step}"]
    found = report(quality.main, flags, monkeypatch, capfd)
    assert found.keys() == quality.VARIANTS.keys()
    perplexities = [row["perplexity"] for row in found.values()]  # type: ignore[index]
    assert max(perplexities) < 1.2 * min(perplexities)
    errors = [row["mean_error"] for row in found.values()]  # type: ignore[index]
    assert errors[0] == 0 < errors[2] < errors[3] < 1
