import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from zml.errors import CheckpointError
from zml.io import fuzz
from zml.io.safetensors import Entry


def test_some_thousand_files_are_handled_as_the_library_does() -> None:
    report = fuzz.run(random.Random(0), lambda number: number < 2000, corpus=fuzz.corpus())
    assert report.counts.total() == 2000
    assert report.counts["accepted"] > 200 and report.counts["refused"] > 1000
    assert report.counts["stricter"] > 3


def _lax(content: bytes) -> dict[str, Entry]:
    """A parser that checks nothing but what Python does."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    entries = {}
    for name, x in header.items():
        begin, end = (8 + length + offset for offset in x["data_offsets"])
        entries[name] = Entry("x", x["dtype"], tuple(x["shape"]), begin, end)
    return entries


def _file(header: Any, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "raised error: unpack requires"),
        (_file([]), "raised TypeError"),
        (_file({"a": 1}), "raised TypeError: 'int' object"),
        (_file({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}), "accepted what the"),
    ],
)
def test_a_parser_that_is_wrong_is_found(content: bytes, said: str) -> None:
    with pytest.raises(fuzz.FuzzError, match=said) as failure:
        fuzz.check(content, _lax)
    assert failure.value.content == content


def test_one_that_reads_something_else_is_found() -> None:
    content = _file({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, b"xy")
    assert fuzz.check(content, _lax) == "accepted"

    def shifted(content: bytes) -> dict[str, Entry]:
        entry = _lax(content)["a"]
        return {"a": Entry(entry.file, entry.dtype, entry.shape, entry.begin - 1, entry.end - 1)}

    for wrong in (shifted, lambda content: {}, lambda content: {"b": _lax(content)["a"]}):
        with pytest.raises(fuzz.FuzzError, match="read otherwise than by the library"):
            fuzz.check(content, wrong)

    def long_winded(content: bytes) -> dict[str, Entry]:
        raise CheckpointError("x" * 3000)

    with pytest.raises(fuzz.FuzzError, match="the message has 3000 characters"):
        fuzz.check(content, long_winded)


def test_most_files_that_are_made_are_healthy() -> None:
    rng = random.Random(1)
    healthy = [fuzz.check(fuzz.healthy(rng), _lax) for _ in range(300)]
    assert healthy.count("accepted") == 300


def test_the_program_says_what_it_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzz.main(["--seconds=0.2", "--seed=7"]) == 0
    assert capsys.readouterr().out.startswith("seed 7: ")

    def broken(*_: Any) -> Any:
        raise KeyError("no")

    monkeypatch.setattr(fuzz, "read_header", broken)
    assert fuzz.main(["--seconds=10", "--seed=7", f"--failures={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert "seed 7: raised KeyError: 'no'" in said and str(tmp_path) in said
    assert (tmp_path / "fuzz-7.safetensors").stat().st_size >= 0


def test_what_takes_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: Any) -> Any:
        while True:
            pass

    monkeypatch.setattr(fuzz, "read_header", endless)
    with pytest.raises(fuzz.FuzzError, match="took more than"):
        fuzz.run(random.Random(0), lambda number: True, most_seconds=0.05)
