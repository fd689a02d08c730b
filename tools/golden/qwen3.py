"""The Qwen3 checkpoints: q and k are normed by head, the head size is its own, layers may slide."""

from tools.golden.variant import Architecture, Variant

_SIZES = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BASE = {
    **_SIZES,
    "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
# As Qwen3's files are.
_EARLY = {
    **_SIZES,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "max_window_layers": 2,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
}

_VARIANTS = [
    Variant("gqa"),
    Variant("mqa_tied_early", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    Variant("mha_biases", {"num_key_value_heads": 4, "head_dim": 8, "attention_bias": True}),
    Variant(
        "odd_sizes_sliding_early",
        {
            "vocab_size": 67,
            "hidden_size": 40,
            "intermediate_size": 44,
            "num_hidden_layers": 3,
            "head_dim": 12,
            "rms_norm_eps": 1e-3,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
        },
    ),
    Variant(
        "rope_yarn",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 8.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    Variant(
        "bfloat16",
        {
            "dtype": "bfloat16",
            "vocab_size": 96,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
]

ARCHITECTURE = Architecture("qwen3", _BASE, _EARLY, _VARIANTS)
