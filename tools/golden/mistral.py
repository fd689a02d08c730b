"""The Mistral checkpoints: Llama's mathematics, where all layers slide or none does."""

from tools.golden.variant import Architecture, Variant

_SIZES = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": None,
}
_BASE = {
    **_SIZES,
    "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
# As Mistral's files are.
_EARLY = {
    **_SIZES,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.42.0.dev0",
    "use_cache": True,
}

_VARIANTS = [
    Variant("gqa"),
    Variant("sliding", {"num_hidden_layers": 3, "sliding_window": 8}),
    Variant("mqa_sliding_early", {"num_key_value_heads": 1, "sliding_window": 16}),
    Variant("mha_tied", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    Variant(
        "head_dim_early",
        {
            "vocab_size": 67,
            "hidden_size": 40,
            "intermediate_size": 44,
            "head_dim": 12,
            "rms_norm_eps": 1e-3,
            "rope_theta": 1000000.0,
        },
    ),
    Variant(
        "bfloat16",
        {"dtype": "bfloat16", "vocab_size": 96, "num_hidden_layers": 3, "sliding_window": 16},
    ),
]

ARCHITECTURE = Architecture("mistral", _BASE, _EARLY, _VARIANTS)
