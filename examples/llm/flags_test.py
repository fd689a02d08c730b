import dataclasses
import subprocess
import sys

import pytest

from examples.llm.flags import Options, parse
from zml.errors import UsageError
from zml.llm.sampling import Sampling


def _parse(*flags: str) -> Options:
    options = parse(["llm", *flags])
    assert options is not None
    return options


def test_the_defaults() -> None:
    assert _parse() == Options(
        model=None, prompt=None, raw=False, prompt_token_ids=None, seqlen=None, max_new_tokens=None,
        temperature=None, top_k=None, top_p=None, min_p=None,
        repetition_penalty=None, presence_penalty=None, frequency_penalty=None, seed=0, stop=(), ignore_eos=False,
        platform="auto", cpu_device_count=None, backend="auto", dtype="auto", quantize="none",
        dry_run=False, profile=None, json=False, debug=False,
    )  # fmt: skip


def test_every_flag_is_read() -> None:
    options = _parse(
        "--model=/m", "--prompt_token_ids=1,2,3", "--seqlen=7", "--max_new_tokens=3", "--temperature=0.5",
        "--top_k=4", "--top_p=0.9", "--min_p=0.1", "--repetition_penalty=1.5",
        "--presence_penalty=0.25", "--frequency_penalty=-1", "--seed=9", "--stop=a,b", "--stop=\n", "--ignore_eos",
        "--platform=cpu", "--cpu_device_count=2", "--backend=vanilla", "--dtype=bfloat16", "--quantize=int8",
        "--profile=/p", "--json", "--debug",
    )  # fmt: skip
    assert options == Options(
        model="/m", prompt=None, raw=False, prompt_token_ids=(1, 2, 3), seqlen=7, max_new_tokens=3,
        temperature=0.5, top_k=4, top_p=0.9, min_p=0.1,
        repetition_penalty=1.5, presence_penalty=0.25, frequency_penalty=-1.0, seed=9,
        stop=("a,b", "\n"), ignore_eos=True,
        platform="cpu", cpu_device_count=2, backend="vanilla", dtype="bfloat16", quantize="int8",
        dry_run=False, profile="/p", json=True, debug=True,
    )  # fmt: skip


def test_other_forms_of_the_same() -> None:
    assert _parse("-prompt", "a b", "--noraw", "--json=true") == _parse("--prompt=a b", "--json")
    assert _parse("--prompt=").prompt == ""
    assert _parse("--prompt=--json") == _parse("--prompt", "--json")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--promt=x"], "Unknown command line flag 'promt'"),
        (["hello"], "unexpected argument 'hello': flags are given as --name=value"),
        (["--prompt=x", "--", "y"], "unexpected argument 'y'"),
        (["--prompt"], "prompt"),
        (["--seqlen=x"], "seqlen"),
        (["--seqlen=0"], "seqlen"),
        (["--max_new_tokens=0"], "max_new_tokens"),
        (["--temperature=warm"], "temperature"),
        (["--repetition_penalty=x"], "repetition_penalty"),
        (["--top_k=1.5"], "top_k"),
        (["--cpu_device_count=0"], "cpu_device_count"),
        (["--cpu_device_count=257"], "cpu_device_count"),
        (["--dtype=int8"], "dtype"),
        (["--quantize=int5"], "quantize"),
        (["--json=maybe"], "json"),
        (["--flagfile=/no/such/file"], "flagfile|no/such/file"),
        (["--prompt_token_ids=1,two"], "--prompt_token_ids=1,two: expected integers"),
        (["--prompt_token_ids=1,,2"], "expected integers separated by commas"),
        (["--prompt_token_ids="], "expected integers separated by commas"),
        (["--prompt=x", "--prompt_token_ids=1"], "give one of them"),
        (["--raw", "--prompt_token_ids=1"], "--raw is about a text prompt"),
        (["--model="], "--model is empty"),
        (["--stop="], "--stop is empty"),
        (["--profile="], "--profile is empty"),
        (["--dry_run", "--profile=/p"], "--dry_run .* --profile"),
        (["--prompt=caf\udce9"], "--prompt is not valid UTF-8"),
        (["--stop=caf\udce9"], "--stop is not valid UTF-8"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(flags: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        _parse(*flags)
    assert error.value.exit_code == 2


def test_what_only_the_platform_knows_passes_as_it_is() -> None:
    assert _parse("--platform=abacus", "--backend=slide_rule").platform == "abacus"


def test_the_flags_about_sampling_are_the_fields_of_sampling() -> None:
    given = _parse("--top_k=4", "--presence_penalty=1").sampling()
    assert given.keys() == {field.name for field in dataclasses.fields(Sampling)}
    assert {name: value for name, value in given.items() if value} == {
        "top_k": 4,
        "presence_penalty": 1.0,
    }


def test_help_prints_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--help"], ["-h"], ["--help", "--quantize=int8"]):
        assert parse(["llm", *flags]) is None
        text = capsys.readouterr().out
        assert all(f"--{name}\n" in text for name in vars(_parse()))


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--no_such_flag", 2), ("--stop=", 2)])
def test_help_and_wrong_flags_import_neither_jax_nor_numpy(flag: str, code: int) -> None:
    script = (
        "import sys\nfrom examples.llm.main import main\n"
        f"code = main(['llm', {flag!r}])\n"
        "print(code, {'jax', 'numpy', 'tokenizers', 'jinja2'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.endswith(f"{code} set()\n")
    assert bool(done.stdout) == (code == 0)
