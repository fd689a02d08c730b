import math
from typing import Any

import pytest

from zml.errors import ConfigError
from zml.models import architecture
from zml.models.config import ConfigReader
from zml.models.llama import Config, weight_specs
from zml.testing.tiny import CONFIG


@pytest.mark.parametrize("given", [None, "gpt2", "", 3, ["llama"], {"llama": 1}, "LLAMA"])
def test_an_unknown_model_type_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="expected one of llama"):
        architecture(given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": "320"}, "vocab_size is '320'"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"vocab_size": 320.0}, "vocab_size is 320.0"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"vocab_size": 2**31}, "at most 2147483647"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**12}, "at most 10000"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple"),
        ({"hidden_size": 34}, "hidden_size 34 is not a multiple"),
        ({"head_dim": 5}, "head_dim is 5, RoPE expects an even number"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ({"hidden_act": ["silu"]}, "hidden_act is ['silu']"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
        ({"rms_norm_eps": 10**400}, "the llama model expects a positive number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
        ({"mlp_bias": 1}, "mlp_bias is 1"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope' is not supported"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_dict(CONFIG | changes)
    assert said in str(error.value)
    assert str(error.value).startswith("config.json: ")


@pytest.mark.parametrize(
    "extra",
    [
        {"sliding_window": 4096},
        {"quantization_config": {"bits": 4}},
        {"logit_scale": 0.5},
        {"attn_logit_softcapping": 1},
        {"is_encoder_decoder": True},
    ],
    ids=str,
)
def test_a_key_that_could_change_the_maths_is_refused(extra: dict[str, Any]) -> None:
    (key,) = extra
    with pytest.raises(ConfigError, match=f"does not understand {key}="):
        Config.from_dict(CONFIG | extra)


@pytest.mark.parametrize(
    "extra",
    [
        {"sliding_window": None},
        {"quantization_config": {}},
        {"is_encoder_decoder": False},
        {"_name_or_path": "somewhere", "_commit_hash": "0"},
        {"return_dict": True, "use_cache": True, "pretraining_tp": 1, "id2label": {"0": "a"}},
    ],
    ids=str,
)
def test_keys_that_are_off_or_inert_pass(extra: dict[str, Any]) -> None:
    assert Config.from_dict(CONFIG | extra) == Config.from_dict(CONFIG)


def test_defaults_are_those_of_transformers() -> None:
    config = Config.from_dict({k: v for k, v in CONFIG.items() if "position" not in k})
    assert (config.max_positions, config.activation, config.head_dim) == (2048, "silu", 8)
    required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    bare = Config.from_dict({k: CONFIG[k] for k in (*required, "num_attention_heads")})
    assert (bare.kv_heads, bare.norm_eps, bare.tied_embeddings) == (4, 1e-6, False)
    assert not bare.attention_bias and not bare.mlp_bias


def test_an_explicit_head_dim_need_not_divide_the_hidden_size() -> None:
    config = Config.from_dict(CONFIG | {"head_dim": 6})
    specs = weight_specs(config)
    assert specs.layers[0].q.weight.shape == (24, 32)
    assert specs.layers[0].k.weight.shape == (12, 32)
    assert specs.layers[0].o.weight.shape == (32, 24)


def test_specs_follow_the_switches() -> None:
    plain = weight_specs(Config.from_dict(CONFIG))
    assert plain.lm_head is not None and plain.layers[0].q.bias is None
    switches = {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
    specs = weight_specs(Config.from_dict(CONFIG | switches))
    assert specs.lm_head is None
    assert specs.layers[1].o.bias is not None and specs.layers[1].down.bias is not None
    assert specs.layers[1].o.bias.name == "model.layers.1.self_attn.o_proj.bias"


def test_taken_keys_count_as_read() -> None:
    reader = ConfigReader({"a": 1, "b": 2}, "test")
    reader.taken("a")
    assert reader.integer("b") == 2
    reader.finish()
