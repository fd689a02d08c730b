import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.llm.main import main
from zml.testing import files

_REPORT = {
    "model", "model_type", "platform", "device", "backend", "dtype", "prompt_token_ids", "token_ids", "text",
    "finish_reason", "timings", "peak_rss_bytes",
}  # fmt: skip
_TIMINGS = {
    "startup_seconds", "tokenizer_seconds", "compile_seconds", "compile_cached", "load_seconds", "load_bytes",
    "ttft_seconds", "prefill_tokens_per_second", "decode_tokens_per_second", "decode_weight_bytes",
}  # fmt: skip
_IDS = "--prompt_token_ids=5,6,7"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.checkpoint(tmp_path_factory.mktemp("llm") / "model")


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line on the tiny model: exit code, stdout, stderr. Programs are compiled once for all tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(model.parent / "cache"))

    def go(*flags: str, stdin: str = "", folder: Path = model) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main(["llm", f"--model={folder}", "--max_new_tokens=4", "--seqlen=40", *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


def test_json_is_one_object_with_the_agreed_names(run: Run, model: Path) -> None:
    code, out, _ = run(_IDS, "--json", "--ignore_eos")
    report = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert set(report) == _REPORT and set(report["timings"]) == _TIMINGS
    assert report["model"] == str(model)
    assert report["prompt_token_ids"] == [5, 6, 7]
    assert len(report["token_ids"]) == 4 and report["finish_reason"] == "length"
    again = json.loads(run(_IDS, "--json", "--ignore_eos")[1])
    assert again["timings"]["compile_cached"] is True
    assert (again["token_ids"], again["text"]) == (report["token_ids"], report["text"])


def test_text_alone_is_on_stdout(run: Run) -> None:
    expected = json.loads(run("--prompt=the", "--raw", "--json")[1])["text"]
    code, out, err = run("--prompt=the", "--raw")
    assert code == 0
    assert out.rstrip("\n") == expected.rstrip("\n")
    assert all(line.split("(")[0] == "info" for line in err.splitlines())


def test_the_prompt_may_come_from_stdin(run: Run) -> None:
    by_flag = json.loads(run("--prompt=the violin", "--json")[1])
    by_stdin = json.loads(run("--json", stdin="the violin\n")[1])
    assert by_stdin["prompt_token_ids"] == by_flag["prompt_token_ids"]
    assert by_stdin["token_ids"] == by_flag["token_ids"]


def test_sampling_repeats_with_its_seed(run: Run) -> None:
    first, same, other = (
        json.loads(run(_IDS, "--json", "--temperature=2", f"--seed={seed}")[1])["token_ids"]
        for seed in (1, 1, 2)
    )
    assert first == same != other


def test_a_dry_run_plans_and_does_not_load(run: Run) -> None:
    code, out, err = run("--dry_run")
    assert code == 0 and "KV cache" in out and "Loaded weights" not in err
    plan = json.loads(run("--dry_run", "--json")[1])
    assert plan["total"] > plan["memory_plan"]["weights"] > 0


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--prompt="], 2, "the prompt is empty"),
        ([], 2, "the prompt is empty"),
        (["--prompt_token_ids=320"], 2, "outside the model's vocabulary"),
        (["--prompt_token_ids=" + "1," * 39 + "1"], 2, "raise --seqlen"),
        ([_IDS, "--seqlen=65"], 2, "--seqlen=65"),
        ([_IDS, "--temperature=0", "--top_k=3"], 2, "contradicts --top_k=3"),
        ([_IDS, "--platform=cuda"], 1, "not supported yet"),
        ([_IDS, "--profile=/proc/none"], 1, "/proc/none: "),
        (["--nosuch"], 2, "Unknown command line flag"),
    ],
)
def test_what_is_wrong_is_one_line_on_stderr(
    flags: list[str], code: int, said: str, run: Run
) -> None:
    got, out, err = run(*flags)
    assert (got, out) == (code, "")
    (line,) = [line for line in err.splitlines() if not line.startswith("info(")]
    assert line.startswith("error(llm): ") and said in line


def test_a_broken_checkpoint_is_one_line_on_stderr(run: Run, tmp_path: Path) -> None:
    files.checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    for folder, said in [(tmp_path, "not valid JSON"), (tmp_path / "none", "does not exist")]:
        code, out, err = run(_IDS, folder=folder)
        assert (code, out) == (1, "")
        assert err.startswith("error(llm): ") and said in err and err.count("\n") == 1


def test_a_stop_needs_a_tokenizer(run: Run, tmp_path: Path) -> None:
    files.checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert run(_IDS, folder=tmp_path)[0] == 0
    code, _, err = run(_IDS, "--stop=x", folder=tmp_path)
    assert code == 1 and "no tokenizer.json" in err


def test_debug_shows_the_traceback(run: Run) -> None:
    with pytest.raises(Exception, match="outside the model's vocabulary"):
        run("--prompt_token_ids=320", "--debug")


@pytest.mark.parametrize("stdout", ["closed", "full", "pipe"])
def test_a_stdout_that_takes_nothing_is_one_line_on_stderr(stdout: str, model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "examples.llm",
        f"--model={model}",
        _IDS,
        "--max_new_tokens=4",
        "--seqlen=40",
    ]
    shell = {
        "closed": '"$@" >&-',
        "full": '"$@" >/dev/full',
        "pipe": '{ "$@"; echo $? >&2; } | true',
    }
    done = subprocess.run(
        ["bash", "-c", shell[stdout], "bash", *command],
        env=os.environ | {"XDG_CACHE_HOME": str(model.parent / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("info(")]
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert errors[0].startswith("error(llm): ")
    assert errors[1:] == (["1"] if stdout == "pipe" else [])
    assert stdout == "pipe" or done.returncode == (2 if stdout == "closed" else 1)
