"""The Qwen2 checkpoints: biases on q, k and v in all of them, and layers that may slide."""

from tools.golden.variant import Architecture, Variant

_SIZES = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
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
# As Qwen2.5's files are; sliding_window counts only where use_sliding_window is true.
_EARLY = {
    **_SIZES,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "max_window_layers": 1,
    "rope_theta": 1000000.0,
    "sliding_window": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
}

_VARIANTS = [
    Variant("gqa"),
    Variant("mqa_tied_early", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    Variant(
        "mha_head_dim",
        {
            "vocab_size": 67,
            "hidden_size": 40,
            "intermediate_size": 44,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "rms_norm_eps": 1e-3,
        },
    ),
    Variant("sliding_early", {"num_hidden_layers": 3, "use_sliding_window": True}),
    Variant(
        "rope_yarn_early",
        {
            "rope_theta": 500.0,
            "rope_scaling": {
                "factor": 8.0,
                "original_max_position_embeddings": 16,
                "type": "yarn",
            },
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

ARCHITECTURE = Architecture("qwen2", _BASE, _EARLY, _VARIANTS)
