"""True widths of the releases, for models of random weights. Needs no torch.

A row has the fields of the released `config.json` that set a size, and whatever else the release
cannot be recognised without.
"""

from typing import Any

_MINICPM = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2304,
    "intermediate_size": 5760,
    "max_position_embeddings": 4096,
    "num_attention_heads": 36,
    "num_hidden_layers": 40,
    "num_key_value_heads": 36,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
    "vocab_size": 122753,
    "scale_emb": 12,
    "dim_model_base": 256,
    "scale_depth": 1.4,
}
_TEXT = _MINICPM | {"architectures": ["MiniCPMForCausalLM"]}
_FIRST = _MINICPM | {
    "architectures": ["MiniCPMV"],
    "model_type": "minicpmv",
    "drop_vision_last_layer": True,
    "image_size": 448,
    "query_num": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
}
_SIGLIP = {
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
_SLICED = {
    "architectures": ["MiniCPMV"],
    "model_type": "minicpmv",
    "hidden_act": "silu",
    "image_size": 448,
    "patch_size": 14,
    "slice_mode": True,
    "batch_vision_input": True,
    "drop_vision_last_layer": False,
    "tie_word_embeddings": False,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
}
_V26 = _SLICED | {
    "version": 2.6,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "query_num": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
    "vision_config": _SIGLIP | {"model_type": "siglip"},
    "vocab_size": 151666,
}

SHAPES: dict[str, dict[str, Any]] = {
    "1.0": _FIRST | {"max_position_embeddings": 2048},
    "2.0": _FIRST
    | {
        "max_slice_nums": 9,
        "mm_use_im_start_end": True,
        "patch_size": 14,
        "scale_resolution": 448,
        "slice_mode": True,
    },
    "2.5": _SLICED
    | {
        "version": "2.5",
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "mm_use_im_start_end": True,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "query_num": 96,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "torch_dtype": "float16",
        "vision_config": _SIGLIP | {"model_type": "idefics2"},
        "vocab_size": 128256,
    },
    "2.6": _V26,
    "omnilmm-12b": {
        "architectures": ["OmniLMMForCausalLM"],
        "model_type": "omnilmm",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "image_size": 448,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "mm_use_im_start_end": True,
        "mm_vision_tower": "eva02_enormous_patch14_clip_224.laion2b_plus",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_query": 64,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_mm_proj": True,
        "vocab_size": 32009,
    },
    "2b": _TEXT,
    "1b": _TEXT
    | {
        "hidden_size": 1536,
        "intermediate_size": 3840,
        "num_attention_heads": 24,
        "num_hidden_layers": 52,
        "num_key_value_heads": 8,
        "vocab_size": 73440,
    },
    "2b-128k": _TEXT
    | {
        "max_position_embeddings": 65536,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "vocab_size": 122760,
    },
    "moe-8x2b": _TEXT | {"num_experts": 8, "num_experts_per_tok": 2},
    # No release: 2.6 in small, to try the command itself.
    "tiny": _V26
    | {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "max_position_embeddings": 4096,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "vision_config": {
            "hidden_size": 64,
            "image_size": 980,
            "intermediate_size": 128,
            "model_type": "siglip",
            "num_attention_heads": 1,
            "num_hidden_layers": 2,
            "patch_size": 14,
        },
        "vocab_size": 4096,
    },
}


def config_of(shape: str, layers: int | None = None) -> dict[str, Any]:
    """Fields of `config.json`; `layers` decoder layers instead of all."""
    fields = dict(SHAPES[shape])
    if layers is not None:
        fields["num_hidden_layers"] = layers
    return fields
