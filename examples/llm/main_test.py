import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.llm.main import main
from zml.testing import tiny

_IDS = "--prompt_token_ids=5,6,7"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("llm") / "model")


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


def test_the_prompt_may_come_from_stdin(run: Run) -> None:
    by_flag = json.loads(run("--prompt=the violin", "--json")[1])
    by_stdin = json.loads(run("--json", stdin="the violin\n")[1])
    assert by_stdin["prompt_token_ids"] == by_flag["prompt_token_ids"]
    assert by_stdin["token_ids"] == by_flag["token_ids"]


def test_a_profile_folder_that_cannot_be_made_is_met_before_the_run(run: Run) -> None:
    code, out, err = run(_IDS, "--profile=/proc/none")
    assert (code, out) == (1, "")
    assert (
        err.splitlines()[-1].startswith("error(llm): /proc/none: ") and "Loaded weights" not in err
    )


def test_the_home_of_nobody_is_one_line(run: Run) -> None:
    code, out, err = run(_IDS, folder=Path("~nobody-of-that-name/model"))
    assert (code, out) == (1, "")
    assert "nobody-of-that-name/model: does not exist" in err.splitlines()[-1]


class JaxRuntimeError(RuntimeError):
    """As jax names its own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (JaxRuntimeError("RESOURCE_EXHAUSTED: no room\nat line 7"), "the device failed: RESOURCE_EXHAUSTED: no room"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory: Unable to allocate 9 GiB"),
        (OSError("odd"), "output: odd"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
    ],
)  # fmt: skip
def test_what_the_machine_refuses_is_one_line(
    error: Exception, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> int:
        raise error

    monkeypatch.setattr("examples.llm.main._run", fail)
    code, out, err = run(_IDS)
    assert (code, out) == (1, "")
    assert err.startswith(f"error(llm): {said}") and err.count("\n") == 1


def test_a_fault_of_the_program_is_not_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr("examples.llm.main._run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run(_IDS)


def test_a_stop_needs_a_tokenizer(run: Run, tmp_path: Path) -> None:
    tiny.checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert run(_IDS, folder=tmp_path)[0] == 0
    code, _, err = run(_IDS, "--stop=x", folder=tmp_path)
    assert code == 1 and "no tokenizer.json" in err


def test_debug_shows_the_traceback(run: Run) -> None:
    with pytest.raises(Exception, match="outside the model's vocabulary"):
        run("--prompt_token_ids=320", "--debug")


def test_no_stdout_at_all_is_one_line_on_stderr() -> None:
    command = f"{shlex.quote(sys.executable)} -m examples.llm {_IDS} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error(llm): stdout is closed") and done.stderr.count("\n") == 1
