import importlib
import math
from typing import Any

import pytest

from zml.errors import ConfigError
from zml.models import Config, architecture
from zml.models.config import ConfigReader
from zml.testing.tiny import CONFIGS

_TYPES = sorted(CONFIGS)
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _read(model_type: str, **changes: Any) -> Config:
    """The tiny config with changes; None takes a key away."""
    config = CONFIGS[model_type] | changes
    return architecture(model_type).read_config(
        {k: v for k, v in config.items() if v is not None or k == "sliding_window"}
    )


def _bare(model_type: str, *keys: str) -> Config:
    """What is read where a config.json has these keys alone."""
    config = {key: CONFIGS[model_type][key] for key in keys}
    return architecture(model_type).read_config(config)


def _windows(config: Config) -> list[int | None]:
    return [layer.window for layer in config.layers]


def test_the_tiny_configs_are_of_all_architectures() -> None:
    modules = importlib.import_module("zml.models")._ARCHITECTURES
    assert sorted(modules) == _TYPES


@pytest.mark.parametrize("given", [None, "gpt2", "", 3, ["llama"], {"llama": 1}, "LLAMA"])
def test_an_unknown_model_type_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=f"expected one of {', '.join(_TYPES)}"):
        architecture(given)


@pytest.mark.parametrize("model_type", _TYPES)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": "320"}, "vocab_size is '320'"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"vocab_size": 320.0}, "vocab_size is 320.0"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"vocab_size": 2**31}, "at most 2147483647"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**12}, "at most 10000"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple"),
        ({"head_dim": 5}, "head_dim is 5, RoPE expects an even number"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": 10**400}, "model expects a positive number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
        ({"rope_scaling": {"type": "warped"}}, "'warped' is not supported"),
        ({"rope_theta": 0}, "rope_theta is 0"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(model_type: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        _read(model_type, **changes)
    assert said in str(error.value)
    assert str(error.value).startswith("config.json: ")


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("llama", {"hidden_size": None}, "hidden_size is missing, the llama model expects"),
        ("llama", {"hidden_size": 34}, "hidden_size 34 is not a multiple"),
        ("qwen2", {"hidden_size": 34}, "hidden_size 34 is not a multiple"),
        ("llama", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ("qwen3", {"hidden_act": ["silu"]}, "hidden_act is ['silu']"),
        ("gemma3_text", {"hidden_activation": "mish"}, "hidden_activation is 'mish'"),
        ("llama", {"mlp_bias": 1}, "mlp_bias is 1"),
        ("qwen3", {"attention_bias": "no"}, "attention_bias is 'no', the qwen3 model"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0, the mistral model expects"),
        ("mistral", {"sliding_window": "all"}, "sliding_window is 'all'"),
        ("qwen2", {"use_sliding_window": 1}, "use_sliding_window is 1"),
        ("qwen2", {"max_window_layers": -1}, "max_window_layers is -1, the qwen2 model expects"),
        ("qwen2", {"max_window_layers": False}, "max_window_layers is False"),
        ("qwen2", {"layer_types": [_FULL]}, "a list of 2 of full_attention and sliding_attention"),
        ("qwen3", {"layer_types": [_FULL, "linear_attention"]}, "layer_types is ['full_attention"),
        ("qwen3", {"layer_types": [_FULL, [_FULL]]}, "layer_types is ['full_attention"),
        ("gemma3_text", {"layer_types": _FULL}, "layer_types is 'full_attention'"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ("gemma3_text", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("gemma3_text", {"final_logit_softcapping": -1}, "final_logit_softcapping is -1"),
        ("gemma3_text", {"rope_local_base_freq": -1}, "rope_theta is -1"),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_architecture_is_named(
    model_type: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        _read(model_type, **changes)
    assert said in str(error.value)
    assert str(error.value).startswith("config.json: ")


@pytest.mark.parametrize("model_type", _TYPES)
@pytest.mark.parametrize(
    "extra",
    [
        {"quantization_config": {"bits": 4}},
        {"logit_scale": 0.5},
        {"attn_logit_softcapping": 1},
        {"is_encoder_decoder": True},
        {"use_bidirectional_attention": True},
        {"num_experts": 8},
    ],
    ids=str,
)
def test_a_key_that_could_change_the_maths_is_refused(
    model_type: str, extra: dict[str, Any]
) -> None:
    (key,) = extra
    with pytest.raises(
        ConfigError, match=f"the {model_type} model does not understand {key}=.*delete it"
    ):
        _read(model_type, **extra)


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("llama", "sliding_window", 4096),
        ("llama", "use_sliding_window", True),
        ("mistral", "attention_bias", True),
        ("mistral", "layer_types", [_FULL, _SLIDING]),
        ("qwen2", "attention_bias", True),
        ("qwen2", "mlp_bias", True),
        ("qwen3", "mlp_bias", True),
        ("qwen3", "final_logit_softcapping", 30.0),
        ("gemma3_text", "mlp_bias", True),
        ("gemma3_text", "hidden_act", "silu"),
    ],
)
def test_a_key_of_another_architecture_is_refused(model_type: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"the {model_type} model does not understand {key}="):
        _read(model_type, **{key: value})


@pytest.mark.parametrize("model_type", _TYPES)
@pytest.mark.parametrize(
    "extra",
    [
        {"quantization_config": {}},
        {"is_encoder_decoder": False},
        {"_name_or_path": "somewhere", "_commit_hash": "0"},
        {"return_dict": True, "use_cache": True, "pretraining_tp": 1, "id2label": {"0": "a"}},
    ],
    ids=str,
)
def test_keys_that_are_off_or_inert_pass(model_type: str, extra: dict[str, Any]) -> None:
    assert _read(model_type, **extra) == _read(model_type)


def test_a_window_that_is_null_is_none_to_the_models_that_have_one() -> None:
    assert _windows(_read("mistral")) == [6, 6]
    assert _windows(_read("mistral", sliding_window=None)) == [None, None]
    assert _windows(_read("qwen2")) == [6, None]
    assert _windows(_read("qwen2", sliding_window=None)) == [None, None]
    assert _windows(_read("qwen2", use_sliding_window=False)) == [None, None]
    assert _read("llama", sliding_window=None) == _read("llama")


def test_windows_by_the_number_of_the_layer() -> None:
    upper = {"layer_types": None, "use_sliding_window": True, "sliding_window": 7}
    for model_type in ("qwen2", "qwen3"):
        config = _read(model_type, num_hidden_layers=4, max_window_layers=2, **upper)
        assert _windows(config) == [None, None, 7, 7]
        assert _windows(_read(model_type, max_window_layers=0, **upper)) == [7, 7]
        # transformers' own default is above what a tiny model has.
        assert _windows(_read(model_type, **upper)) == [None, None]
    gemma = {"layer_types": None, "num_hidden_layers": 7}
    assert _windows(_read("gemma3_text", **gemma)) == [6, 6, 6, 6, 6, None, 6]
    every = _read("gemma3_text", **gemma, sliding_window_pattern=3)
    assert _windows(every) == [6, 6, None, 6, 6, None, 6]


def test_gemma_has_a_rope_for_each_kind_of_layer() -> None:
    local, full = _read("gemma3_text", rope_local_base_freq=100.0).layers
    assert local.rope != full.rope and full.rope == _read("llama").layers[0].rope


_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")


def test_defaults_are_those_of_transformers() -> None:
    """From the configuration classes of transformers 5."""
    llama = _bare("llama", *_SIZES, "num_attention_heads")
    assert (llama.kv_heads, llama.head_dim, llama.max_positions) == (4, 8, 2048)
    assert (llama.norm_eps, llama.activation, llama.tied_embeddings) == (1e-6, "silu", False)
    assert not (llama.qkv_bias or llama.o_bias or llama.mlp_bias or llama.qk_norm)

    mistral = _bare("mistral")
    assert (mistral.vocab_size, mistral.hidden_size, mistral.intermediate_size) == (
        32000,
        4096,
        14336,
    )
    assert (mistral.heads, mistral.kv_heads, mistral.head_dim) == (32, 8, 128)
    assert mistral.max_positions == 131072 and _windows(mistral) == [4096] * 32

    qwen2 = architecture("qwen2").read_config(
        {key: CONFIGS["qwen2"][key] for key in _SIZES}
        | {"hidden_size": 256, "num_attention_heads": 32}
    )
    assert (qwen2.kv_heads, qwen2.max_positions, qwen2.norm_eps) == (32, 32768, 1e-6)
    assert qwen2.qkv_bias and not (qwen2.o_bias or qwen2.mlp_bias or qwen2.qk_norm)
    assert _windows(qwen2) == [None, None]

    qwen3 = architecture("qwen3").read_config(
        {key: CONFIGS["qwen3"][key] for key in _SIZES} | {"num_attention_heads": 32}
    )
    assert (qwen3.kv_heads, qwen3.head_dim, qwen3.max_positions) == (32, 128, 32768)
    assert qwen3.qk_norm and not (qwen3.qkv_bias or qwen3.o_bias)

    gemma = _bare("gemma3_text")
    assert (gemma.vocab_size, gemma.hidden_size, gemma.intermediate_size) == (262208, 2304, 9216)
    assert (gemma.heads, gemma.kv_heads, gemma.head_dim) == (8, 4, 256)
    assert gemma.max_positions == 131072 and gemma.tied_embeddings
    assert (gemma.activation, gemma.scale, gemma.logit_softcap) == (
        "gelu_pytorch_tanh",
        1 / 16,
        None,
    )
    assert len(gemma.layers) == 26 and _windows(gemma)[:6] == [4096] * 5 + [None]


def test_an_explicit_head_dim_need_not_divide_the_hidden_size() -> None:
    assert _read("llama", head_dim=6).head_dim == 6


def test_switches_are_read() -> None:
    llama = _read("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
    assert llama.qkv_bias and llama.o_bias and llama.mlp_bias and llama.tied_embeddings
    for model_type in ("qwen3", "gemma3_text"):
        assert _read(model_type, attention_bias=True).o_bias
    assert _read("gemma3_text", final_logit_softcapping=30).logit_softcap == 30
    assert _read("gemma3_text", query_pre_attn_scalar=4).scale == 0.5


def test_taken_keys_count_as_read() -> None:
    reader = ConfigReader({"a": 1, "b": 2}, "test")
    reader.taken("a")
    assert reader.integer("b") == 2
    reader.finish()
    with pytest.raises(ConfigError, match="the test model does not understand b=2"):
        ConfigReader({"b": 2}, "test").finish()
