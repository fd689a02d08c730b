"""The Llama checkpoints: grouped-query attention, biases, RoPE scaling, how weights are stored."""

from tools.golden import tiny_tokenizer
from tools.golden.variant import Architecture, Variant

_BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
_EARLY = {
    **{key: value for key, value in _BASE.items() if key not in ("dtype", "rope_parameters")},
    "torch_dtype": "float32",
    "rope_theta": 10000.0,
}
_SCALED = {"rope_theta": 500.0, "original_max_position_embeddings": 16}

_VARIANTS = [
    Variant("gqa", {}),
    Variant("mqa_early", {"num_key_value_heads": 1, "rope_theta": 123456.0}),
    Variant(
        "mha_tied",
        {
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "num_hidden_layers": 1,
            "vocab_size": tiny_tokenizer.VOCAB_SIZE + 8,
        },
        tokenizer=True,
    ),
    Variant("biases", {"attention_bias": True, "mlp_bias": True}),
    Variant("head_dim", {"head_dim": 16, "num_hidden_layers": 1}),
    Variant(
        "rope_llama3_early",
        {
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
        generation={"temperature": 0.6, "top_p": 0.9, "do_sample": True},
    ),
    Variant("rope_linear_early", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    Variant("rope_yarn", {"rope_parameters": {**_SCALED, "rope_type": "yarn", "factor": 16.0}}),
    Variant(
        "rope_yarn_attention_factor_early",
        {
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 16,
                "attention_factor": 0.8,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
            },
        },
    ),
    Variant(
        "rope_yarn_mscale",
        {
            "rope_parameters": {
                **_SCALED,
                "rope_type": "yarn",
                "factor": 16.0,
                "mscale": 1.0,
                "mscale_all_dim": 0.5,
                "truncate": False,
            }
        },
    ),
    Variant("sharded", {"eos_token_id": [2, 3, 5]}, {"eos_token_id": [2, 3, 5]}, shards=3),
    Variant("bfloat16", {"dtype": "bfloat16", "num_hidden_layers": 3, "vocab_size": 96}),
    Variant(
        "odd_sizes",
        {
            "vocab_size": 131,
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_hidden_layers": 1,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 12,
            "rms_norm_eps": 1e-3,
            "dtype": "float16",
        },
    ),
]

ARCHITECTURE = Architecture("llama", _BASE, _EARLY, _VARIANTS, completed=False)
