"""The Gemma 3 checkpoints (text only): norms on both sides, scaled embeddings, sliding layers with their own RoPE."""

from tools.golden.variant import Architecture, Variant

_SIZES = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": [1, 3],
    "sliding_window": 16,
}
_LOCAL = {"rope_type": "default", "rope_theta": 100.0}
_BASE = {
    **_SIZES,
    "layer_types": [
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ],
    "dtype": "float32",
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_attention": _LOCAL,
    },
}
# As gemma-3-1b's file is: embeddings are tied though it does not say so.
_EARLY = {
    **_SIZES,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "initializer_range": 0.02,
    "rope_local_base_freq": 100,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window_pattern": 6,
    "torch_dtype": "float32",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
}

_VARIANTS = [
    Variant("gqa"),
    # The sixth of seven layers is the full one.
    Variant(
        "mqa_early",
        {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 8,
        },
    ),
    Variant(
        "rope_linear_early",
        {
            "num_hidden_layers": 3,
            "query_pre_attn_scalar": 10,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "rope_theta": 500,
            "sliding_window_pattern": 2,
        },
    ),
    Variant(
        "mha_untied_biases",
        {
            "num_hidden_layers": 2,
            "num_key_value_heads": 4,
            "layer_types": ["full_attention", "sliding_attention"],
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
                "sliding_attention": _LOCAL,
            },
        },
    ),
    # attn_logit_softcapping stays null: transformers reads it for Gemma 3 and then makes no use of it.
    Variant(
        "odd_sizes_softcap",
        {
            "vocab_size": 67,
            "hidden_size": 40,
            "intermediate_size": 44,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "head_dim": 12,
            "query_pre_attn_scalar": 7,
            "rms_norm_eps": 1e-3,
            "sliding_window": 5,
            "final_logit_softcapping": 3.0,
        },
    ),
    Variant("bfloat16", {"dtype": "bfloat16", "vocab_size": 96, "sliding_window": 8}),
]

# These norms bound what a layer adds. Near one, the scaled embedding, which is the output's too, outweighs all
# layers, and the text is one token over and over.
_NORM_OFFSETS = {
    "post_attention_layernorm.weight": 7.0,
    "post_feedforward_layernorm.weight": 7.0,
}

ARCHITECTURE = Architecture("gemma3", _BASE, _EARLY, _VARIANTS, norm_offsets=_NORM_OFFSETS)
