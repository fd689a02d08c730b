"""From the command line that compiles to the one that generates: same tokens, and each misfit is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from examples.llm._testing import config, fails, run, write_model
from tools.compile.main import main

PROMPT = ("--prompt_token_ids=5,6,7,8", "--max_new_tokens=6", "--temperature=0", "--ignore_eos")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_model(tmp_path, monkeypatch)


def compiled(model: Path, *flags: str) -> Path:
    """Compiles for the CPU into a folder, which is returned."""
    folder = model.parent / "programs"
    flags = (f"--model={model}", "--target=cpu", f"--output={folder}", *flags)
    assert main(["compile", *flags]) == 0
    return folder


def generated(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run("--platform=cpu", "--json", *PROMPT, *flags) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.parametrize("flags", [(), ("--cpu_device_count=2", "--seqlen=40")], ids=str)
def test_the_tokens_are_the_same_and_nothing_is_compiled(
    model: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], tmp_path: Path
) -> None:
    folder = compiled(model, *flags)
    out = capsys.readouterr().out
    assert "decode.zml" in out and "prefill_16.zml" in out
    plain = generated(capsys, f"--model={model}", *flags)
    assert plain["timings"]["compile_cached"] is False
    given = generated(capsys, f"--model={model}", f"--executables={folder}", *flags)
    assert given["token_ids"] == plain["token_ids"]
    assert len(given["token_ids"]) == 6
    assert given["timings"]["compile_cached"] is True


def test_the_manifest_says_what_is_there(model: Path) -> None:
    folder = compiled(model)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["fits"] | {"seqlen": "64", "dtype": "float32"} == manifest["fits"]
    assert manifest["platform"]["target"] == "cpu"
    files = {entry["file"] for entry in manifest["programs"].values()}
    assert files | {"manifest.json"} == {path.name for path in folder.iterdir()}
    assert all(entry["memory"]["arguments"] > 0 for entry in manifest["programs"].values())


def test_what_does_not_fit_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compiled(model)
    capsys.readouterr()

    def said(*flags: str) -> str:
        given = (f"--model={model}", f"--executables={folder}", "--platform=cpu", *PROMPT, *flags)
        return fails(capsys, 1, *given)

    assert "seqlen: 64, here 32 (--seqlen)" in said("--seqlen=32")
    assert "dtype: float32, here bfloat16 (--dtype)" in said("--dtype=bfloat16")
    assert "devices: 1 x cpu, here 2 x cpu" in said("--cpu_device_count=2")
    (model / "config.json").write_text(json.dumps(config(rope_theta=500.0)))
    message = said()
    assert "config: " in message and "seqlen" not in message
    assert "compile again with tools/compile, or leave --executables out" in message


def test_another_version_or_processor_is_named(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = compiled(model)
    capsys.readouterr()
    path = folder / "manifest.json"
    whole = path.read_text()
    for part, name in (
        ("platform", "jaxlib"),
        ("platform", "instructions"),
        ("fits", "code of zml"),
    ):
        manifest = json.loads(whole)
        manifest[part][name] = "another"
        path.write_text(json.dumps(manifest))
        message = fails(
            capsys, 1, f"--model={model}", f"--executables={folder}", "--platform=cpu", *PROMPT
        )
        assert f"{name}: another, here " in message


def test_damage_is_found(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compiled(model)
    capsys.readouterr()
    command = (f"--model={model}", f"--executables={folder}", "--platform=cpu", *PROMPT)
    program = folder / "decode.zml"
    content = program.read_bytes()
    program.write_bytes(content[:-1] + b"x")
    assert "decode.zml: damaged" in fails(capsys, 1, *command)
    program.unlink()
    assert "decode.zml: cannot be read" in fails(capsys, 1, *command)
    manifest = folder / "manifest.json"
    for text, expected in (
        ("{", "not valid JSON"),
        ("[]", "format []"),
        ('{"format": 9}', "format 9, expected 1"),
        ('{"format": 1}', "damaged"),
    ):
        manifest.write_text(text)
        assert expected in fails(capsys, 1, *command)
    manifest.unlink()
    assert "expected a folder that tools/compile has written" in fails(capsys, 2, *command)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--output=x",), "--target is missing"),
        (("--target=cpu",), "--output is missing"),
        (("--target=cuda:h1000", "--output=x"), "there is no description of 'h1000'"),
        (("--target=abacus", "--output=x"), "'abacus' is not a platform"),
        (("--target=cuda:h100", "--output=x", "--cpu_device_count=2"), "--cpu_device_count is for"),
    ],
)
def test_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], expected: str
) -> None:
    assert main(["compile", *flags]) == 2
    assert expected in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = model / "config.json" / "programs"
    assert main(["compile", f"--model={model}", "--target=cpu", f"--output={output}"]) == 2
    assert f"--output={output}: cannot be written" in capsys.readouterr().err
