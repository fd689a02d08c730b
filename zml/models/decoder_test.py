"""What holds for every decoder; the numbers themselves are compared with transformers' in tests/golden_test.py."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from zml.attention import Attention, KvCache
from zml.attention import attention as reference
from zml.declared import Repeat
from zml.io import View
from zml.model_tree import byte_size, leaves, named_leaves
from zml.models import Decoder, architecture
from zml.models.decoder_config import MODEL_AXIS
from zml.platform import CpuOptions, Platform
from zml.shape import REPLICATED
from zml.tensor import Tensor
from zml.testing import fresh, tiny
from zml.testing.tiny import CONFIG, CONFIGS, TinyModel

_TYPES = sorted(CONFIGS)
_LENGTH = 16
_CHUNK = 5
_VOCAB = CONFIG["vocab_size"]


@cache
def _platform(devices: int = 1) -> Platform:
    return Platform.init("cpu", CpuOptions(devices))


@cache
def _tiny(model_type: str) -> TinyModel:
    return TinyModel(_platform(), _LENGTH, CONFIGS[model_type])


def _tokens(count: int) -> np.ndarray:
    return fresh.generator().integers(0, _VOCAB, count).astype(np.int32)


def _declared(config: Mapping[str, Any], shards: int = 1, dtype: str = "f32") -> Decoder:
    arch = architecture(config["model_type"])
    return arch.init(View.blank(dtype), arch.read_config(config), shards)


def _forward(made: TinyModel, tokens: np.ndarray) -> np.ndarray:
    """Logits of whole sequences, without a cache."""
    deployment = made.deployment
    given = deployment.platform.put(tokens, ("s",), sharding=deployment.sharding)
    exe = deployment.platform.compile(
        Decoder.forward, deployment.model, given, shardings=[deployment.sharding]
    )
    logits: np.ndarray = exe(made.weights, given).numpy()
    return logits


def _step(
    model: Decoder, cache: KvCache, tokens: Tensor, start: Tensor, attention: Attention
) -> tuple[Tensor, KvCache]:
    hidden, written = model.hidden_states(tokens, start, cache, attention)
    return model.logits(hidden), written.reuse_buffer(cache)


@pytest.mark.parametrize("model_type", _TYPES)
def test_chunks_over_the_cache_give_what_the_whole_sequence_gives(model_type: str) -> None:
    made, one, rng = _tiny(model_type), _platform(), fresh.generator()
    tokens = _tokens(_LENGTH - _CHUNK)
    expected = _forward(made, tokens)
    scalar = Tensor.declare({}, "i32")
    declared = made.deployment.cache()
    step = one.compile(
        _step, made.deployment.model, declared, Tensor.declare({"s": _CHUNK}, "i32"), scalar, reference
    ).bake(made.weights)  # fmt: skip
    for _ in range(3):
        # NaN throughout: what a chunk has not written yet must not matter.
        kv: Any = jax.tree.map(
            lambda x: one.put(np.full(x.shape.dims, np.nan, np.float32), x.shape),
            declared,
            is_leaf=lambda x: isinstance(x, Tensor),
        )
        done = 0
        while done < len(tokens):
            take = int(rng.integers(1, min(_CHUNK, len(tokens) - done) + 1))
            # Padded to one length, as prefill does.
            chunk = np.zeros(_CHUNK, np.int32)
            chunk[:take] = tokens[done : done + take]
            start = one.put(np.int32(done), ())
            logits, kv = step(kv, one.put(chunk, ("s",)), start, reference)
            wanted = expected[done : done + take]
            np.testing.assert_allclose(logits.numpy()[:take], wanted, rtol=1e-4, atol=1e-4)
            done += take


@pytest.mark.parametrize("model_type", _TYPES)
def test_what_comes_later_changes_nothing(model_type: str) -> None:
    """Sequences of several sizes are the beginning of the longest; and the function runs as plain JAX too."""
    made, tokens = _tiny(model_type), _tokens(13)
    expected = _forward(made, tokens)
    plain = jax.tree.map(lambda x: Tensor(x.array, x.shape.tags), made.weights)
    for size in (1, 8):
        got = _forward(made, tokens[:size])
        assert got.dtype == np.float32 and got.shape == (size, _VOCAB)
        np.testing.assert_allclose(got, expected[:size], rtol=1e-4, atol=1e-4)
    with jax.default_device(_platform().devices[0].handle):
        eager = plain.forward(Tensor(tokens[:8], ("s",)))
    assert eager.tags == ("s", "voc")
    np.testing.assert_allclose(np.asarray(eager.value), got, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "devices"),
    [(model_type, 2) for model_type in _TYPES] + [("llama", 4), ("gemma3_text", 8)],
)
def test_cut_over_devices_the_logits_are_the_same(model_type: str, devices: int) -> None:
    """Two KV heads for eight query heads: over four and eight devices each is there several times."""
    config = CONFIGS[model_type] | {"num_attention_heads": 8}
    arrays = tiny.weights(config, seed=int(fresh.generator().integers(2**31)))
    tokens = _tokens(11)
    whole = TinyModel(_platform(), _LENGTH, config, arrays)
    cut = TinyModel(_platform(devices), _LENGTH, config, arrays)
    parts = cut.weights.layers[0].attention
    assert parts.k.weight.shape.dim("h") == max(2, devices)
    assert parts.q.weight.array.addressable_shards[0].data.shape[0] == 8 // devices
    got, expected = _forward(cut, tokens), _forward(whole, tokens)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_heads_that_do_not_divide_are_whole_on_every_device(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "zml"):
        cut = TinyModel(_platform(3), _LENGTH, CONFIG)
    warnings = [r.getMessage() for r in caplog.records if r.name == "zml.models"]
    assert warnings == [
        "4 heads do not divide by 3 devices: every device computes the attention of all heads"
    ]
    attention, mlp = cut.weights.layers[0].attention, cut.weights.layers[0].mlp
    assert attention.q.weight.array.addressable_shards[0].data.shape == (4, 8, 32)
    assert mlp.gate.weight.array.addressable_shards[0].data.shape == (16, 32)
    assert cut.deployment.cache().k[0].shape.partition("h") is REPLICATED
    tokens = _tokens(9)
    np.testing.assert_allclose(
        _forward(cut, tokens), _forward(_tiny("llama"), tokens), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "shards", "cached"),
    [(8, 2, 1, 2), (8, 2, 2, 2), (8, 2, 4, 4), (8, 2, 8, 8), (6, 2, 3, 6), (12, 4, 6, 12), (8, 8, 4, 8)],
)  # fmt: skip
def test_kv_heads_are_repeated_until_they_divide(
    heads: int, kv_heads: int, shards: int, cached: int
) -> None:
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 4}
    config = architecture("llama").read_config(CONFIG | sizes)
    cache = config.cache(7, "bf16", shards)
    assert cache.length == 7 and len(cache.k) == len(cache.v) == 2
    assert cache.k[1].shape.dims == (cached, 7, 4) and cache.v[0].dtype == "bf16"
    assert cache.k[0].shape.partition("h") == MODEL_AXIS and not cached % shards
    weight = _declared(CONFIG | sizes, shards).layers[0].attention.k.weight
    repeats = cached // kv_heads
    assert weight.source.dims == (kv_heads * 4, 32)
    assert weight.source.repeat == (Repeat("h", repeats) if repeats > 1 else None)


def test_what_does_not_divide_is_not_cut() -> None:
    sizes = {"vocab_size": 321, "intermediate_size": 50, "hidden_size": 34, "head_dim": 8}
    model = _declared(CONFIG | sizes, 4)
    assert model.lm_head is not None
    mlp = model.layers[0].mlp
    assert model.lm_head.weight.shape.partition("voc") is REPLICATED
    assert mlp.down.weight.shape.partition("f") is REPLICATED
    assert model.embedding.weight.shape.partition("d") is REPLICATED
    assert model.layers[0].attention.o.weight.shape.partition("h") == MODEL_AXIS


@pytest.mark.parametrize("model_type", _TYPES)
def test_names_are_those_of_hugging_face(model_type: str) -> None:
    model = _declared(CONFIGS[model_type] | {"tie_word_embeddings": True})
    names = {x.source.name: list(x.source.dims) for x in leaves(model)}
    assert len(names) == len(leaves(model))
    layer = "model.layers.1."
    expected = {
        "model.embed_tokens.weight": [_VOCAB, 32],
        "model.norm.weight": [32],
        layer + "input_layernorm.weight": [32],
        layer + "self_attn.q_proj.weight": [32, 32],
        layer + "self_attn.k_proj.weight": [16, 32],
        layer + "self_attn.o_proj.weight": [32, 32],
        layer + "mlp.down_proj.weight": [32, 48],
    }
    assert expected.items() <= names.items()
    own = {
        "gemma3_text": {"self_attn.q_norm.weight": [8], "pre_feedforward_layernorm.weight": [32]},
        "qwen2": {"self_attn.q_proj.bias": [32], "self_attn.v_proj.bias": [16]},
        "qwen3": {"self_attn.k_norm.weight": [8]},
    }.get(model_type, {})
    assert {layer + name: dims for name, dims in own.items()}.items() <= names.items()
    has_norms = model_type in ("gemma3_text", "qwen3")
    assert any("q_norm" in name for name in names) == has_norms
    assert any(name.endswith("bias") for name in names) == (model_type == "qwen2")


def test_switches_declare_what_they_say() -> None:
    plain = _declared(CONFIG)
    assert plain.lm_head is not None and plain.layers[0].attention.q.bias is None
    switches = {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
    model = _declared(CONFIG | switches)
    assert model.lm_head is None
    biases = [path for path, x in named_leaves(model) if x.source.name.endswith(".bias")]
    parts = (
        "attention.q",
        "attention.k",
        "attention.v",
        "attention.o",
        "mlp.gate",
        "mlp.up",
        "mlp.down",
    )
    assert sorted(biases) == sorted(f"layers[{i}].{part}.bias" for i in (0, 1) for part in parts)
    assert model.layers[1].attention.o.bias.source.name == "model.layers.1.self_attn.o_proj.bias"


def test_a_decode_step_reads_the_output_layer_and_not_the_table() -> None:
    table = 4 * _VOCAB * 32
    untied, tied = _declared(CONFIG), _declared(CONFIG | {"tie_word_embeddings": True})
    assert byte_size(untied.decode_parts()) == byte_size(untied) - table
    assert byte_size(tied.decode_parts()) == byte_size(tied) == byte_size(untied) - table
    assert byte_size(_declared(CONFIG, dtype="bf16").decode_parts()) * 2 == byte_size(tied)


@pytest.mark.parametrize("model_type", _TYPES)
def test_logits_of_bfloat16_are_float32(model_type: str) -> None:
    model = _declared(CONFIGS[model_type], dtype="bf16")
    out: Any = jax.eval_shape(Decoder.forward, model, Tensor.declare({"s": 3}, "i32"))
    assert out.shape.dims == (3, _VOCAB) and out.dtype == "f32"


def test_the_layers_are_one_function_of_the_program() -> None:
    """Tracing and lowering a model of many layers takes little longer than one of few."""
    sizes = []
    for layers in (2, 8):
        model = _declared(CONFIG | {"num_hidden_layers": layers})
        tokens = Tensor.declare({"s": 3}, "i32")
        sizes.append(len(_platform().compile(Decoder.forward, model, tokens).stablehlo))
    assert sizes[1] < 1.5 * sizes[0]
