"""Damaged checkpoints, and those of other types: one error each, and nothing on stdout."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from examples.llm._testing import config, fails, run, tensors, tokenizer, write_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_model(tmp_path, monkeypatch)


def _damage_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 10**7) + path.read_bytes()[8:])


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _save(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        changed = tensors()
        change(changed)
        save_file(changed, folder / "model.safetensors")

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
        (_write("config.json", json.dumps(config(model_type="bert"))), "model_type is 'bert'"),
        (_write("config.json", json.dumps(config(model_type=None))), "model_type is missing"),
        (_write("config.json", json.dumps(config(hidden_size="16"))), "hidden_size is '16'"),
        (
            _write("config.json", json.dumps(config(logit_scale=2.0))),
            "does not understand logit_scale",
        ),
        (
            _write("config.json", json.dumps(config(vocab_size=100))),
            "[300, 16], expected [100, 16]",
        ),
        (_write("config.json", json.dumps(config(torch_dtype="int8"))), "dtype is 'int8'"),
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
    larger = tokenizer()
    larger.add_tokens([f"<extra{i}>" for i in range(100)])
    larger.save(str(model / "tokenizer.json"))
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
    rounded = {name: t.astype(ml_dtypes.bfloat16) for name, t in tensors().items()}
    save_file(rounded, model / "model.safetensors")
    assert run(*command) == 0
    narrow = json.loads(capsys.readouterr().out)
    save_file({n: t.astype(np.float32) for n, t in rounded.items()}, model / "model.safetensors")
    assert run(*command) == 0
    wide = json.loads(capsys.readouterr().out)
    assert narrow["token_ids"] == wide["token_ids"]
    assert 2 * narrow["timings"]["load_bytes"] == wide["timings"]["load_bytes"]
