import random
from collections.abc import Callable, Sequence

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from zml.testing.tiny import WORDS, byte_tokenizer
from zml.tokenizer import StopFilter, TextStream

_ALPHABET = "aé日本👩\u200d🚀🎻 \n\t'.e\u0301\u0627\u064b"
_BYTES = byte_tokenizer(WORDS)


def _sentence_piece(strip: bool) -> Tokenizer:
    """As Llama 2 and Mistral have it: words that begin with U+2581, and a token for each byte."""
    pieces = [
        "<unk>",
        "<s>",
        "\u2581",
        "\u2581a",
        "a",
        "\u2581the",
        "\u2581日",
        "本",
        ".",
        "\u2581\u2581",
    ]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    if strip:
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


def _id(tokenizer: Tokenizer, piece: str) -> int:
    found = tokenizer.token_to_id(piece)
    assert found is not None
    return found


def _decoder(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _stream(
    decode: Callable[[Sequence[int]], str], ids: Sequence[int], context: Sequence[int] = ()
) -> list[str]:
    stream = TextStream(decode, context)
    pieces = [stream.push(token) for token in ids]
    return [*pieces, stream.flush()]


def _text(rng: random.Random) -> str:
    return "".join(rng.choice([*_ALPHABET, *WORDS]) for _ in range(rng.randint(0, 12)))


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_a_byte_level_text_add_up(seed: int) -> None:
    rng = random.Random(seed)
    text = _text(rng)
    ids = _BYTES.encode(text, add_special_tokens=False).ids
    pieces = _stream(_decoder(_BYTES), ids)
    assert "".join(pieces) == text == _BYTES.decode(ids)
    assert pieces[-1] == ""
    # Whole characters only: what is given out at any moment is a beginning of the text.
    assert all(text.startswith("".join(pieces[:n])) for n in range(len(pieces)))


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_random_tokens_add_up_even_where_they_are_not_utf8(seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(_BYTES.get_vocab_size()) for _ in range(60)]
    decode = _decoder(_BYTES)
    assert "".join(_stream(decode, ids)) == decode(ids)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_context_that_ends_within_a_character_loses_nothing(cut: int) -> None:
    # Without merges every byte is a token.
    tokenizer = byte_tokenizer([], vocab_size=258)
    text = "né日🎻x"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = _stream(_decoder(tokenizer), ids[cut:], ids[:cut])
    whole = text.encode()[:cut].decode(errors="ignore")
    assert "".join(pieces) == text[len(whole) :]


@pytest.mark.parametrize("strip", [True, False], ids=["strip", "metaspace"])
@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_a_sentence_piece_text_add_up(strip: bool, seed: int) -> None:
    rng = random.Random(seed)
    tokenizer = _sentence_piece(strip)
    decode = _decoder(tokenizer)
    ids: list[int] = []
    for _ in range(rng.randint(1, 15)):
        char = rng.choice(_ALPHABET)
        fallback = [_id(tokenizer, f"<0x{b:02X}>") for b in char.encode()]
        ids += fallback if rng.random() < 0.5 else [rng.randrange(1, 10)]
    assert "".join(_stream(decode, ids)) == decode(ids)
    # With a context, what is new is what the context's own text lacks.
    a = _id(tokenizer, "\u2581a")
    context = [1, a, a, a, a]
    both = decode(context + ids)
    assert "".join(_stream(decode, ids, context)) == both[len(decode(context)) :]


def test_a_word_after_a_context_keeps_its_space() -> None:
    tokenizer = _sentence_piece(strip=True)
    the = _id(tokenizer, "\u2581the")
    assert _stream(_decoder(tokenizer), [the, the]) == ["the", " the", ""]
    assert _stream(_decoder(tokenizer), [the, the], [1, the]) == [" the", " the", ""]


def test_an_unfinished_character_comes_out_at_the_end() -> None:
    tokenizer = byte_tokenizer([], vocab_size=258)
    ids = tokenizer.encode("a🎻", add_special_tokens=False).ids
    assert _stream(_decoder(tokenizer), ids[:-1]) == ["a", "", "", "", "\ufffd"]


def test_nothing_pushed_is_nothing_given() -> None:
    tokenizer = byte_tokenizer([], vocab_size=258)
    ids = tokenizer.encode("🎻", add_special_tokens=False).ids
    assert _stream(_decoder(tokenizer), [], ids[:2]) == [""]


def test_special_tokens_give_no_text() -> None:
    x = _BYTES.encode("x", add_special_tokens=False).ids
    assert _stream(_decoder(_BYTES), [0, *x, 1, *x, 1]) == ["", "x", "", "x", "", ""]


def _brute(text: str, stops: Sequence[str]) -> str:
    """Character by character: the text before the longest stop string of the first end at which there is one."""
    for end in range(len(text) + 1):
        here = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if here:
            return text[: end - max(here)]
    return text


@pytest.mark.parametrize("seed", range(60))
def test_a_stop_filter_does_what_a_search_of_the_whole_text_does(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("ab") for _ in range(rng.randint(0, 30)))
    stops = [
        "".join(rng.choice("ab") for _ in range(rng.randint(1, 5)))
        for _ in range(rng.randint(0, 3))
    ]
    given, rest = "", text
    stop = StopFilter(stops)
    while rest:
        size = rng.randint(0, 4)
        given += stop.push(rest[:size])
        rest = rest[size:]
        # Nothing is held back that could not be the beginning of a stop string.
        held = len(text) - len(rest) - len(given)
        assert stop.stopped or held < max(map(len, stops), default=1)
    given += stop.flush()
    assert given == _brute(text, stops)
    assert stop.stopped == any(s in text for s in stops)


def test_a_stop_filter_is_over_once_it_has_stopped() -> None:
    stop = StopFilter(["</s>", ""])
    assert stop.push("a<") == "a"
    assert stop.push("/s>b") == ""
    assert stop.stopped
    assert stop.push("c") == stop.flush() == ""
