import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zml.compile import ExecutableCache
from zml.errors import CheckpointError, ConfigError, UnsupportedError, UsageError
from zml.llm.engine import Engine
from zml.llm.programs import Programs
from zml.llm.sampling import Sampling
from zml.platform import CpuOptions, Platform
from zml.testing import tiny

_GREEDY = Sampling()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    cache = ExecutableCache(folder.parent / "cache")
    engine = Engine.open(str(folder), Platform.init("cpu", cache=cache), seqlen=40)
    engine.open_tokenizer()
    engine.start(prompt_tokens=5)
    yield engine


def _open(folder: Path, **arguments: Any) -> Engine:
    return Engine.open(str(folder), Platform.init("cpu"), **arguments)


def _text(engine: Engine, prompt: list[int], **arguments: Any) -> tuple[list[int], str]:
    pieces = list(engine.generate(prompt, _GREEDY, 12, **arguments))
    tokens = [piece.token for piece in pieces if piece.token is not None]
    return tokens, "".join(piece.text for piece in pieces)


def test_text_is_what_the_tokens_decode_to(engine: Engine) -> None:
    prompt = engine.encode("the violin")
    tokens, text = _text(engine, prompt)
    assert len(tokens) == 12 and engine.finish_reason == "length"
    assert engine._need_tokenizer().decode(prompt + tokens).endswith(text)


def test_an_eos_token_ends_the_answer_and_gives_no_text(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = engine.encode("the")
    tokens, text = _text(engine, prompt)
    eos = next(token for token in tokens if tokens.index(token) > 2)
    monkeypatch.setitem(engine.checkpoint.config, "eos_token_id", eos)
    short, short_text = _text(engine, prompt)
    assert short == tokens[: tokens.index(eos) + 1]
    assert engine.finish_reason == "stop"
    assert short_text != text and text.startswith(short_text.rstrip("\ufffd"))
    assert _text(engine, prompt, ignore_eos=True) == (tokens, text)
    assert engine.finish_reason == "length"


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(engine: Engine) -> None:
    prompt = engine.encode("instrument")
    tokens, text = _text(engine, prompt)
    at = len(text) // 2
    short, short_text = _text(engine, prompt, stops=[text[at : at + 2]])
    assert short_text == text[: text.index(text[at : at + 2])]
    assert engine.finish_reason == "stop"
    assert short == tokens[: len(short)]


def test_a_chat_goes_through_the_template(engine: Engine) -> None:
    ids = engine.encode_chat([{"role": "user", "content": "ok"}])
    assert engine._need_tokenizer().decode(ids) == "<u>ok</u>"


def test_programs_come_from_the_cache_the_second_time(engine: Engine, folder: Path) -> None:
    cache = ExecutableCache(folder.parent / "cache")
    again = Engine.open(str(folder), Platform.init("cpu", cache=cache), seqlen=40)
    again.start()
    assert again.timings.compile_cached
    assert again.timings.load_bytes == engine.timings.load_bytes > 0
    assert _text(again, [5, 6, 7])[0] == _text(engine, [5, 6, 7])[0]
    # Without its tokenizer it gives tokens alone.
    assert _text(again, [5, 6, 7])[1] == ""


def test_the_memory_plan_counts_what_is_held(engine: Engine) -> None:
    plan = engine.memory_plan()
    sizes = [array.size for array in tiny.weights().values()]
    assert plan.devices == 1
    assert plan.weights == 4 * sum(sizes) == plan.checkpoint
    assert plan.kv_cache == 2 * 2 * (2 * 40 * 8) * 4  # keys and values, layers, a layer's, float32
    assert plan.temporaries.keys() == plan.executables.keys() == {"prefill_16", "decode"}
    held = plan.weights + plan.kv_cache + sum(plan.executables.values())
    assert plan.total == held + max(plan.temporaries.values())
    assert "On the device:" in str(plan) and "KV cache" in str(plan)
    assert engine.decode_weight_bytes() == plan.weights - 4 * 320 * 32


def test_the_memory_plan_is_of_each_device(folder: Path) -> None:
    """Halves of what is cut; norms are whole on both, and so is nothing else of this model."""
    engine = Engine.open(str(folder), Platform.init("cpu", CpuOptions(2)), seqlen=40)
    plan = engine.memory_plan()
    norms = 5 * 32
    whole = sum(array.size for array in tiny.weights().values())
    assert plan.devices == 2 and "On each of 2 devices:" in str(plan)
    assert plan.weights == 4 * ((whole - norms) // 2 + norms)
    assert plan.kv_cache == 2 * (2 * 40 * 8) * 4
    assert plan.checkpoint == 4 * whole
    assert engine.decode_weight_bytes() == 4 * (whole - 320 * 32)


@pytest.mark.parametrize(
    ("backend", "said"),
    [("abacus", "attention backend 'abacus' is unknown"), ("nki", "'nki' is not in this build")],
)
def test_an_attention_backend_that_is_not_there_is_refused(
    backend: str, said: str, folder: Path
) -> None:
    assert _open(folder, backend="vanilla").deployment.backend == "vanilla"
    with pytest.raises(UnsupportedError, match=said):
        _open(folder, backend=backend)


def test_the_context_is_bounded_by_the_model(folder: Path) -> None:
    assert _open(folder).deployment.length == 64
    with pytest.raises(UsageError, match=r"--seqlen=65: .* at most 64 positions"):
        _open(folder, seqlen=65)


def test_a_dtype_is_the_one_asked_for(folder: Path) -> None:
    assert _open(folder).deployment.dtype == "f32"
    assert _open(folder, dtype="float16").deployment.dtype == "f16"


def test_an_engine_that_was_not_started_says_so(folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Engine\.start"):
        _open(folder).generate([1], _GREEDY)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.safetensors", b"", "too short"),
        ("generation_config.json", b'{"eos_token_id": "x"}', "eos_token_id is 'x'"),
        ("config.json", b'{"model_type": "bert"}', "model_type is 'bert'"),
    ],
)
def test_what_is_wrong_is_met_at_opening(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    tiny.checkpoint(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        _open(tmp_path)


def test_weights_of_another_config_are_met_at_opening(tmp_path: Path) -> None:
    config = json.loads((tiny.checkpoint(tmp_path) / "config.json").read_text())
    for changes, said in [
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight, .* more missing"),
        ({"intermediate_size": 50}, r"gate_proj\.weight is \[48, 32\], expected \[50, 32\]"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises((CheckpointError, ConfigError), match=said):
            _open(tmp_path)


def test_a_checkpoint_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    tiny.checkpoint(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    engine = _open(tmp_path)
    engine.open_tokenizer()
    assert not engine.has_chat_template
    with pytest.raises(CheckpointError, match=r"no chat template .* use --raw"):
        engine.encode_chat([{"role": "user", "content": "ok"}])


@pytest.mark.parametrize(
    ("prompt", "buckets"),
    [(1, [16]), (16, [16]), (17, [64]), (64, [64]), (65, [16, 64]), (90, [64]), (128, [64])],
)
def test_only_the_programs_of_a_prompt_are_compiled_for_it(
    prompt: int, buckets: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []
    monkeypatch.setattr(Programs, "compile", lambda _, tokens: compiled.append(tokens))
    engine = _open(tiny.checkpoint(tmp_path, max_position_embeddings=200))
    engine.start(prompt)
    assert compiled == [1, *buckets]
