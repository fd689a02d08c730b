"""The command line from outside: exit codes, messages, and what goes to stdout."""

import json
import os
import pty
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from examples.llm.main import main

VOCAB = 300


def _config(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
        "tie_word_embeddings": True, "rope_theta": 10000.0, "torch_dtype": "float32", "eos_token_id": 2,
    } | changes  # fmt: skip


def _tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    shapes = {
        "model.embed_tokens.weight": (VOCAB, 16), "model.norm.weight": (16,),
        "model.layers.0.input_layernorm.weight": (16,), "model.layers.0.post_attention_layernorm.weight": (16,),
        "model.layers.0.self_attn.q_proj.weight": (16, 16), "model.layers.0.self_attn.k_proj.weight": (8, 16),
        "model.layers.0.self_attn.v_proj.weight": (8, 16), "model.layers.0.self_attn.o_proj.weight": (16, 16),
        "model.layers.0.mlp.gate_proj.weight": (24, 16), "model.layers.0.mlp.up_proj.weight": (24, 16),
        "model.layers.0.mlp.down_proj.weight": (16, 24),
    }  # fmt: skip
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_config()))
    save_file(_tensors(), folder / "model.safetensors")
    _tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def run(*arguments: str) -> int:
    return main(["llm", *arguments])


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Runs a command that must fail with one message on stderr and nothing on stdout; returns the message."""
    assert run(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    errors = [line for line in err.splitlines() if not line.startswith("info(")]
    assert len(errors) == 1, err
    assert errors[0].startswith("error(llm): ")
    assert "Traceback" not in err
    return errors[0]


def test_json_object_has_the_fields_that_scripts_rely_on(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(f"--model={model}", "--prompt=Hi", "--max_new_tokens=5", "--ignore_eos", "--json") == 0
    )
    out, _ = capsys.readouterr()
    report = json.loads(out)
    assert set(report) == {
        "model", "model_type", "platform", "device", "backend", "dtype", "prompt_token_ids", "token_ids", "text",
        "finish_reason", "timings", "peak_rss_bytes",
    }  # fmt: skip
    assert set(report["timings"]) == {
        "startup_seconds", "tokenizer_seconds", "compile_seconds", "compile_cached", "load_seconds", "load_bytes",
        "ttft_seconds", "prefill_tokens_per_second", "decode_tokens_per_second", "decode_weight_bytes",
    }  # fmt: skip
    assert report["prompt_token_ids"] == _tokenizer().encode("Hi").ids
    assert len(report["token_ids"]) == 5
    assert report["finish_reason"] == "length"
    weights = sum(array.nbytes for array in _tensors().values())
    assert report["timings"]["load_bytes"] == report["timings"]["decode_weight_bytes"] == weights
    assert report["timings"]["compile_cached"] is False
    assert report["peak_rss_bytes"] > 10_000_000

    # The second run finds its programs in the cache and says the same, also when split over devices.
    command = (f"--model={model}", "--prompt=Hi", "--max_new_tokens=5", "--ignore_eos", "--json")
    assert run(*command) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["timings"]["compile_cached"] is True
    assert again["token_ids"] == report["token_ids"]
    assert run(*command, "--cpu_device_count=3") == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == report["token_ids"]


def test_stdout_is_the_text_alone_and_same_seed_same_text(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        f"--model={model}",
        "--prompt=Hi",
        "--max_new_tokens=20",
        "--temperature=1",
        "--raw",
        "--ignore_eos",
    )
    texts = []
    for seed in (1, 1, 2):
        assert run(*command, f"--seed={seed}") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert "info(" not in texts[0]
    assert run(*command, "--seed=1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == texts[0].removesuffix("\n")


def test_stop_text_ends_the_answer_before_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (f"--model={model}", "--prompt=Hi", "--max_new_tokens=20", "--json", "--ignore_eos")
    assert run(*command) == 0
    whole = json.loads(capsys.readouterr().out)["text"]
    stop = whole[3:5]
    assert run(*command, f"--stop={stop}") == 0
    cut = json.loads(capsys.readouterr().out)
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_eos_ends_the_answer_and_is_not_text(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (f"--model={model}", "--prompt=Hi", "--max_new_tokens=8", "--json")
    assert run(*command, "--ignore_eos") == 0
    whole = json.loads(capsys.readouterr().out)
    eos = whole["token_ids"][4]
    count = whole["token_ids"].index(eos) + 1
    (model / "config.json").write_text(json.dumps(_config(eos_token_id=[299, eos])))
    assert run(*command) == 0
    cut = json.loads(capsys.readouterr().out)
    assert cut["token_ids"] == whole["token_ids"][:count]
    assert cut["finish_reason"] == "stop"
    assert whole["text"].startswith(cut["text"])


def test_dry_run_prints_the_plan_and_loads_nothing(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"--model={model}", "--dry_run", "--json") == 0
    out, err = capsys.readouterr()
    plan = json.loads(out)["memory_plan"]
    assert plan["weights"] == sum(array.nbytes for array in _tensors().values())
    assert plan["kv_cache"] == 2 * 64 * 1 * 8 * 4
    assert "decode" in plan["temporaries"]
    assert "Loaded weights" not in err


def test_the_plan_is_of_each_device(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = []
    for count in (1, 2):
        assert run(f"--model={model}", "--dry_run", "--json", f"--cpu_device_count={count}") == 0
        plans.append(json.loads(capsys.readouterr().out)["memory_plan"])
    assert [plan["devices"] for plan in plans] == [1, 2]
    norms = 4 * 3 * 16
    # The one KV head is there twice, once on each device; all but the norms is cut, so the queries' half is saved.
    assert plans[1]["kv_cache"] == plans[0]["kv_cache"]
    repeated = 4 * 2 * 8 * 16
    assert plans[1]["weights"] == (plans[0]["weights"] - norms + repeated) // 2 + norms
    assert run(f"--model={model}", "--dry_run", "--cpu_device_count=2") == 0
    assert "On each of 2 devices:" in capsys.readouterr().out


def test_the_penalty_of_generation_config_applies_and_a_flag_goes_over_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tokens(*flags: str) -> list[int]:
        command = (
            f"--model={model}",
            "--prompt=Hi",
            "--max_new_tokens=20",
            "--ignore_eos",
            "--json",
        )
        assert run(*command, *flags) == 0
        ids: list[int] = json.loads(capsys.readouterr().out)["token_ids"]
        return ids

    plain = tokens()
    assert len(set(plain)) < 20  # a tiny model says the same again and again
    (model / "generation_config.json").write_text('{"repetition_penalty": 50.0}')
    penalized = tokens()
    assert penalized == tokens("--temperature=0") != plain
    assert len(set(penalized)) > len(set(plain))
    assert tokens("--repetition_penalty=1") == plain
    assert (
        tokens("--repetition_penalty=1", "--presence_penalty=2", "--frequency_penalty=2") != plain
    )


def test_token_ids_need_no_tokenizer(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "tokenizer.json").unlink()
    assert run(f"--model={model}", "--prompt_token_ids=1,2,3", "--max_new_tokens=2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt_token_ids"] == [1, 2, 3]
    assert "tokenizer.json: missing" in fails(capsys, 1, f"--model={model}", "--prompt=Hi")


def test_relative_model_is_taken_from_where_bazel_run_was_called(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(model.parent))
    assert run("--model=model", "--prompt_token_ids=1", "--max_new_tokens=1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"] == "model"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model=/no/such/folder"], 1, "does not exist"),
        (["--model=hf://Qwen/Qwen3-8B"], 1, "scheme 'hf' is not supported yet"),
        (["--model="], 2, "--model is empty"),
        (["--no_such_flag"], 2, "no_such_flag"),
        (["--seqlen=0"], 2, "seqlen"),
        (["--seqlen=many"], 2, "seqlen"),
        (["--max_new_tokens=0"], 2, "max_new_tokens"),
        (["--temperature=nan", "--prompt=x"], 2, "--temperature=nan"),
        (["--top_p=1.5", "--prompt=x"], 2, "--top_p=1.5"),
        (["--temperature=0", "--top_p=0.5", "--prompt=x"], 2, "contradicts"),
        (["--prompt=x", "--prompt_token_ids=1"], 2, "give one of them"),
        (["--prompt_token_ids=1,two"], 2, "expected integers"),
        (["--prompt="], 2, "prompt is empty"),
        (["--raw", "--prompt_token_ids=1"], 2, "--raw"),
        (["hello"], 2, "unexpected argument 'hello'"),
        (
            ["--platform=abacus", "--prompt=x"],
            2,
            "'abacus' is not a platform; expected one of cpu, cuda",
        ),
        (["--platform=cuda", "--prompt=x"], 1, "cuda"),
        (["--platform=rocm", "--prompt=x"], 1, "rocm"),
        (["--platform=tpu", "--prompt=x"], 1, "tpu"),
        (["--platform=neuron", "--prompt=x"], 1, "neuron"),
        (["--platform=cuda", "--cpu_device_count=2", "--prompt=x"], 2, "takes no CPU options"),
        (["--backend=slide_rule", "--prompt=x"], 1, "attention backend 'slide_rule' is unknown"),
        (["--backend=cuda_fa3", "--prompt=x"], 1, "'cuda_fa3' is not in this build"),
        (
            ["--repetition_penalty=0", "--prompt=x"],
            2,
            "--repetition_penalty=0.0: expected more than 0",
        ),
        (["--quantize=int8"], 1, "not supported yet"),
        (
            ["--prompt_token_ids=1,2,300"],
            2,
            "token id 300 is outside the model's vocabulary of 300",
        ),
        (["--prompt_token_ids=1,-2"], 2, "token id -2 is outside"),
        (["--prompt_token_ids=1,2,3", "--seqlen=3"], 2, "has 3 tokens"),
        (["--prompt_token_ids=1", "--seqlen=65"], 2, "at most 64 positions"),
    ],
)
def test_wrong_command_lines(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    if not arguments[0].startswith("--model"):
        arguments = [f"--model={model}", *arguments]
    assert said in fails(capsys, code, *arguments)


def _damage_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 10**7) + path.read_bytes()[8:])


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _save(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = _tensors()
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


_NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: [file.unlink() for file in folder.iterdir()], "config.json: missing"),
        (_write("config.json", "{not json"), "config.json: not valid JSON"),
        (_write("config.json", "[]"), "holds a JSON list, expected an object"),
        (_write("config.json", json.dumps(_config(model_type="bert"))), "model_type is 'bert'"),
        (_write("config.json", json.dumps(_config(model_type=None))), "model_type is missing"),
        (_write("config.json", json.dumps(_config(hidden_size="16"))), "hidden_size is '16'"),
        (
            _write("config.json", json.dumps(_config(logit_scale=2.0))),
            "does not understand logit_scale",
        ),
        (
            _write("config.json", json.dumps(_config(vocab_size=100))),
            "[300, 16], expected [100, 16]",
        ),
        (_write("config.json", json.dumps(_config(torch_dtype="int8"))), "dtype is 'int8'"),
        (_write("generation_config.json", "null"), "generation_config.json: holds"),
        (_write("tokenizer.json", "{}"), "tokenizer.json: not a tokenizer"),
        (_write("tokenizer_config.json", '{"chat_template": "{% if %}"}'), "does not parse"),
        (
            _write("tokenizer_config.json", '{"chat_template": "{{ raise_exception(1) }}"}'),
            "failed",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (_save(lambda t: t.pop(_NORM)), "model.norm.weight missing"),
        (
            _save(lambda t: t.update({_NORM: t[_NORM][:8]})),
            "model.norm.weight is [8], expected [16]",
        ),
        (
            _save(lambda t: t.update({_NORM: np.ones(16, np.int8)})),
            "model.norm.weight is I8, expected F16 or",
        ),
        (_truncate, "cut short"),
        (_damage_header, "the header claims 10000000 bytes"),
    ],
)
def test_damaged_checkpoints(
    model: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], said: str
) -> None:
    damage(model)
    assert said in fails(capsys, 1, f"--model={model}", "--prompt=Hi")


def test_tokenizer_beyond_the_embedding(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = _tokenizer()
    tokenizer.add_tokens([f"<extra{i}>" for i in range(100)])
    tokenizer.save(str(model / "tokenizer.json"))
    message = fails(capsys, 1, f"--model={model}", "--prompt=Hi")
    assert "has token ids up to 355" in message
    assert "vocab_size is 300" in message


def test_bfloat16_checkpoint_is_read_exactly(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        f"--model={model}",
        "--prompt_token_ids=5,6",
        "--max_new_tokens=8",
        "--json",
        "--ignore_eos",
    )
    rounded = {name: t.astype(ml_dtypes.bfloat16) for name, t in _tensors().items()}
    save_file(rounded, model / "model.safetensors")
    assert run(*command) == 0
    narrow = json.loads(capsys.readouterr().out)
    save_file({n: t.astype(np.float32) for n, t in rounded.items()}, model / "model.safetensors")
    assert run(*command) == 0
    wide = json.loads(capsys.readouterr().out)
    assert narrow["token_ids"] == wide["token_ids"]
    assert 2 * narrow["timings"]["load_bytes"] == wide["timings"]["load_bytes"]


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
    (model / "config.json").write_text(json.dumps(_config(max_position_embeddings=4096)))
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
