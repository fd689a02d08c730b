"""The program in a process of its own: imports, closed streams, a full disk, a terminal."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.llm._testing import config, run, write_model
from zml.kernels.cpu import library


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_model(tmp_path, monkeypatch)


def _start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "examples.llm", *arguments], **options)


def _environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | changes


def test_help_is_light_and_succeeds() -> None:
    code = (
        "import sys; from examples.llm.main import main; code = main(['llm', '--help']);"
        "sys.exit(code or any(m in sys.modules for m in ('jax', 'numpy', 'tokenizers')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--prompt_token_ids" in done.stdout


def test_closed_stdout_is_one_message(model: Path) -> None:
    command = f"--model={model}", "--prompt=Hi", "--max_new_tokens=30", "--ignore_eos"
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = _start(*command, stdout=write_end, stderr=subprocess.PIPE, env=_environment())
    os.close(write_end)
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.decode().count("error(llm): stdout was closed") == 1
    assert b"Traceback" not in err and b"Exception ignored" not in err

    shell = 'exec "$0" -m examples.llm "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, *command], env=_environment(), capture_output=True
    )
    assert done.returncode == 2
    assert b"error(llm): stdout is closed" in done.stderr


def test_full_disk_is_one_message(model: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = _start(
            f"--model={model}",
            "--prompt=Hi",
            "--json",
            stdout=full,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
        _, err = process.communicate()
    assert process.returncode == 1
    assert b"No space left on device" in err
    assert b"Traceback" not in err and b"Exception ignored" not in err


def test_home_that_cannot_be_written_costs_the_cache_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # a file in the way: refused for root, too
    assert run(f"--model={model}", "--prompt_token_ids=1", "--max_new_tokens=2", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["finish_reason"] == "length"
    assert err.count("warning(compile): ") == 1
    assert "not kept for the next run" in err


def test_chat_on_a_terminal(model: Path) -> None:
    """History is kept over turns, Ctrl-C ends the answer and not the chat, Ctrl-D ends the chat."""
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    (model / "config.json").write_text(json.dumps(config(max_position_embeddings=4096)))
    primary, secondary = pty.openpty()
    process = _start(
        f"--model={model}", "--max_new_tokens=1500", "--ignore_eos", "--seqlen=4096",
        stdin=secondary, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment(),
    )  # fmt: skip
    os.close(secondary)
    assert process.stderr is not None and process.stdout is not None
    os.set_blocking(process.stderr.fileno(), False)
    os.set_blocking(process.stdout.fileno(), False)
    seen = b""

    def wait_until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline and process.poll() is None, seen.decode()
            time.sleep(0.02)

    def logged(text: bytes, times: int) -> bool:
        nonlocal seen
        seen += process.stderr.read() or b""  # type: ignore[union-attr]
        return seen.count(text) >= times

    for turn, message in enumerate((b"one\n", b"two\n"), 1):
        wait_until(lambda: logged(b"> ", turn))  # noqa: B023  # called before turn changes
        process.stdout.read()  # what is left of the last answer
        os.write(primary, message)
        wait_until(lambda: bool(process.stdout.read()))  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        wait_until(lambda: logged(b"new tokens at", turn))  # noqa: B023
    wait_until(lambda: logged(b"> ", 3))
    os.write(primary, b"\x04")
    _, rest = process.communicate(timeout=60)
    os.close(primary)
    assert process.returncode == 0, rest.decode()
    turns = [line for line in seen.decode().splitlines() if "new tokens at" in line]
    prompt_tokens = [int(line.split(": ")[-1].split()[0]) for line in turns]
    assert prompt_tokens[1] > prompt_tokens[0] + len("[user]two")
    assert "(0 cached)" in turns[0] and "(0 cached)" not in turns[1]


@pytest.mark.skipif(not library.available(), reason="the native library is not here")
@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("prompt", ["What is a violin?", "What is a dog?"])
def test_every_instruction_set_gives_the_demo_s_tokens(
    prompt: str, quantize: str, tmp_path: Path
) -> None:
    arguments = f"--prompt={prompt}", f"--quantize={quantize}", "--temperature=0", "--json"
    tokens = {}
    for isa in ("", "portable"):
        done = subprocess.run(
            [sys.executable, "-m", "examples.llm", *arguments],
            env=_environment(ZML_CPU_ISA=isa, XDG_CACHE_HOME=str(tmp_path)),
            capture_output=True,
            text=True,
            check=True,
        )
        tokens[isa] = json.loads(done.stdout)["token_ids"]
    assert tokens["portable"] == tokens[""]
    assert len(tokens[""]) > 5
