"""The command line from outside: flags, exit codes, and what goes to stdout."""

import json
from pathlib import Path

import pytest

from examples.llm._testing import config, fails, run, tensors, tokenizer, write_model
from zml.platform.candidates import candidates


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_model(tmp_path, monkeypatch)


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
    assert report["prompt_token_ids"] == tokenizer().encode("Hi").ids
    assert len(report["token_ids"]) == 5
    assert report["finish_reason"] == "length"
    weights = sum(array.nbytes for array in tensors().values())
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
    (model / "config.json").write_text(json.dumps(config(eos_token_id=[299, eos])))
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
    assert plan["weights"] == sum(array.nbytes for array in tensors().values())
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
        (["--model=ftp://host/model"], 1, "the scheme 'ftp' is not known"),
        (["--model=ftp://me:secret@host/model"], 1, "error(llm): ftp://host/model"),
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
        (["--platform=cuda", "--cpu_device_count=2", "--prompt=x"], 2, "takes no CPU options"),
        (["--backend=slide_rule", "--prompt=x"], 1, "attention backend 'slide_rule' is unknown"),
        (["--backend=nki", "--prompt=x"], 1, "'nki' is not in this build"),
        (["--backend=cuda_fa3", "--prompt=x"], 1, "of compute capability 9.0, not for cpu"),
        (
            ["--repetition_penalty=0", "--prompt=x"],
            2,
            "--repetition_penalty=0.0: expected at least 0.01",
        ),
        (["--quantize=fp8"], 2, "none|int8|int4"),
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


@pytest.mark.parametrize("target", ["cuda", "rocm", "tpu", "neuron"])
def test_a_platform_that_is_not_there_says_why(
    target: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (problem,) = (c.problem for c in candidates() if c.target == target)
    if not problem:
        pytest.skip(f"{target} is here")
    message = fails(capsys, 1, f"--model={model}", "--prompt=x", f"--platform={target}")
    assert target in message and problem.partition(" (")[0] in message
