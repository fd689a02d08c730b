import json
import random
from pathlib import Path

import pytest

from zml.errors import CheckpointError, UsageError
from zml.testing.tiny import WORDS, byte_tokenizer
from zml.tokenizer import Tokenizer


def _save(folder: Path) -> str:
    path = folder / "tokenizer.json"
    byte_tokenizer(WORDS).save(str(path))
    return path.read_text()


def test_text_survives_the_round_trip(tmp_path: Path) -> None:
    _save(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, vocab_size=300)
    for text in ("", " ", *WORDS, "\x00\x7f", "🎻" * 50):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_special_tokens_are_recognised_in_text_and_left_out_of_it(tmp_path: Path) -> None:
    _save(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, vocab_size=300)
    ids = tokenizer.encode("<s>a</s>", add_special_tokens=False)
    assert (ids[0], ids[-1]) == (0, 1)
    assert tokenizer.decode(ids) == "a"


def test_its_own_special_tokens_are_added_only_where_asked(tmp_path: Path) -> None:
    raw = json.loads(_save(tmp_path))
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer.open(tmp_path, vocab_size=300)
    plain = tokenizer.encode("a", add_special_tokens=False)
    assert tokenizer.encode("a", add_special_tokens=True) == [0, *plain]


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    raw = json.loads(_save(tmp_path))
    raw["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    raw["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<s>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer.open(tmp_path, vocab_size=300)
    ids = tokenizer.encode("xyzzy", add_special_tokens=False)
    assert len(ids) == 5 and tokenizer.decode(ids) == "xyzzy"


def test_a_vocabulary_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    size = len(json.loads(_save(tmp_path))["model"]["vocab"])
    Tokenizer.open(tmp_path, vocab_size=size)
    with pytest.raises(
        CheckpointError, match=rf"ids up to {size - 1}, but .* vocab_size is {size - 1}"
    ):
        Tokenizer.open(tmp_path, vocab_size=size - 1)


def test_a_missing_tokenizer_says_what_else_can_be_done(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--prompt_token_ids"):
        Tokenizer.open(tmp_path, 10)


def test_damaged_files_are_checkpoint_errors(tmp_path: Path) -> None:
    rng = random.Random(0)
    healthy = _save(tmp_path).encode()
    damaged = [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"version": "1.0", "model": {"type": "BPE"}}',
    ]
    damaged += [healthy[: rng.randrange(len(healthy))] for _ in range(30)]
    for content in damaged:
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a tokenizer"):
            Tokenizer.open(tmp_path, 300)


def test_text_that_is_not_unicode_is_a_usage_error(tmp_path: Path) -> None:
    _save(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, 300)
    text = b"caf\xe9!".decode(errors="surrogateescape")  # as sys.argv and stdin have it
    with pytest.raises(UsageError, match=r"not valid UTF-8: '\\udce9' at character 3"):
        tokenizer.encode(text, add_special_tokens=True)
