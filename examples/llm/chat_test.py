import io
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from examples.llm import chat
from examples.llm.flags import Options, parse
from zml.llm.chat import Message
from zml.llm.engine import Engine, Piece
from zml.llm.sampling import Sampling
from zml.platform import Platform
from zml.testing import tiny

Chat = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tiny.checkpoint(tmp_path_factory.mktemp("chat") / "model")
    engine = Engine.open(str(folder), Platform.init("cpu"), seqlen=40)
    engine.start()
    return engine


@pytest.fixture
def engine(started: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, started once for all tests: `start` of each chat does nothing more."""
    monkeypatch.setattr(started, "start", lambda: None)
    return started


@pytest.fixture
def talk(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Chat:
    """Types lines into a chat and gives what came out on stdout and stderr."""

    def go(*lines: str, flags: Sequence[str] = ()) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        options = parse(["llm", "--model=tiny", "--max_new_tokens=3", "--ignore_eos", *flags])
        assert isinstance(options, Options)
        assert chat.run(engine, options, Sampling()) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return go


@pytest.fixture
def asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[list[Message]]:
    """The messages of each prompt, as they are rendered."""
    seen: list[list[Message]] = []
    encode = engine.encode_chat

    def spy(messages: Sequence[Message]) -> list[int]:
        seen.append(list(messages))
        return encode(messages)

    monkeypatch.setattr(engine, "encode_chat", spy)
    return seen


def test_each_turn_carries_the_ones_before(talk: Chat, asked: list[list[Message]]) -> None:
    out, err = talk("ok", "", "  ", "café")
    assert [[m["role"] for m in messages] for messages in asked] == [
        ["user"],
        ["user", "assistant", "user"],
    ]
    assert [asked[1][0]["content"], asked[1][2]["content"]] == ["ok", "café"]
    assert out.startswith(asked[1][1]["content"] + "\n")
    assert "Ctrl-D" in err


def test_raw_turns_stand_alone(talk: Chat, asked: list[list[Message]]) -> None:
    talk("ok", "ok", flags=["--raw"])
    assert asked == []


def test_a_chat_that_outgrows_the_context_begins_anew(
    talk: Chat, asked: list[list[Message]]
) -> None:
    _, err = talk(*["the violin is a string instrument"] * 8)
    assert "raise --seqlen" in err and "begins anew" in err
    assert any(len(m) == 1 for m in asked[1:])


def test_a_message_too_long_by_itself_keeps_the_chat_alive(
    talk: Chat, asked: list[list[Message]]
) -> None:
    out, err = talk("日本語 " * 40, "ok")
    assert err.count("error(llm): ") == 1 and "begins anew" not in err
    assert asked[-1] == [{"role": "user", "content": "ok"}]
    assert out.endswith("\n")


def test_bytes_that_are_not_utf8_do_not_end_the_chat(
    talk: Chat, asked: list[list[Message]]
) -> None:
    talk("caf\udce9")
    assert asked[0][0]["content"] == "caf?"


def test_ctrl_c_ends_the_answer_and_keeps_the_chat(
    engine: Engine, talk: Chat, asked: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = engine.generate

    def interrupted(*arguments: Any) -> Iterator[Piece]:
        for count, piece in enumerate(generate(*arguments)):
            if len(asked) == 1 and count == 1:
                signal.raise_signal(signal.SIGINT)
            yield piece

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(engine, "generate", interrupted)
    whole = [
        piece.text
        for piece in generate(
            engine.encode_chat([{"role": "user", "content": "ok"}]), Sampling(), 3
        )
    ]
    asked.clear()
    talk("ok", "ok")
    assert asked[1][1] == {"role": "assistant", "content": "".join(whole[:2])}
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_without_a_template_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    tiny.checkpoint(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    engine = Engine.open(str(tmp_path), Platform.init("cpu"))
    options = parse(["llm"])
    assert options is not None
    with pytest.raises(Exception, match=r"no chat template .* --raw"):
        chat.run(engine, options, Sampling())
