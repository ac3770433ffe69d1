"""Validation of `config.json`: types, ranges and names of its values, and required fields.

transformers checks the types of some fields when it builds a config, and no ranges; a number of
layers of -1 or a missing scale becomes a model that answers wrongly. Here the file is checked
before anything is built from it, so that the message can name the field.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..checkpoint.fields import (
    FLAG,
    NAME,
    OBJECT,
    TEXT,
    TEXTS,
    TOKEN_ID,
    TOKEN_IDS,
    Rule,
    check_fields,
    check_present,
    count,
    damaged,
    is_number,
    number,
    one_of,
)
from ..checkpoint.token_ids import TAGS
from ..releases import RELEASES, VISION_TYPES, model_type_of, release_of

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_DTYPE = Rule(
    lambda value: (
        value is None
        or isinstance(value, torch.dtype)
        or (isinstance(value, str) and value.removeprefix("torch.") in _DTYPES)
    ),
    f"one of {', '.join(_DTYPES)}",
)
_ACTIVATION = Rule(
    lambda value: isinstance(value, str) and value in ACT2FN,
    "the name of an activation function, such as 'silu'",
)
_SHARE = number(least=0, most=1)
_EPSILON = number(above=0, most=1)
# Beyond any model, and small enough that products can be counted and lists be made: larger numbers
# fail in torch, or fill memory, before anything could be compared with the weights.
_WIDTH = count(most=2**24)
_SIDE = count(most=2**32)
_DEPTH = count(most=2**20)
_PATCH = count(most=2**12)
_PATCH_SIDE = 14  # pixels, in every released file
_TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")

_WHOLE_FILE = {
    "_name_or_path": TEXT.or_null(),
    "architectures": TEXTS.or_null(),
    "auto_map": OBJECT.or_null(),
    "dtype": _DTYPE,
    "model_type": NAME,
    "quantization_config": OBJECT.or_null(),
    "torch_dtype": _DTYPE,
    "transformers_version": TEXT.or_null(),
}
_LANGUAGE = {
    "attention_bias": FLAG,
    "attention_dropout": _SHARE,
    "bos_token_id": TOKEN_ID.or_null(),
    "dim_model_base": number(above=0, most=1e6),
    "dtype": _DTYPE,
    "eos_token_id": TOKEN_IDS.or_null(),
    "head_dim": count(most=2**16).or_null(),
    "hidden_act": _ACTIVATION,
    "hidden_size": _WIDTH,
    "initializer_range": number(least=0, most=1e3),
    "intermediate_size": _SIDE,
    "layer_types": TEXTS.or_null(),
    "max_position_embeddings": count(),
    "max_window_layers": count(0),
    "mlp_bias": FLAG,
    "num_attention_heads": _WIDTH,
    "num_experts": count(0, 2**20),
    "num_experts_per_tok": count(0, 2**20),
    "num_hidden_layers": _DEPTH,
    "num_key_value_heads": _WIDTH.or_null(),
    "num_local_experts": count(most=2**20),
    "output_router_logits": FLAG,
    "pad_token_id": TOKEN_ID.or_null(),
    "pretraining_tp": count(),
    "rms_norm_eps": _EPSILON,
    "rope_theta": number(above=1, most=1e12),
    "router_aux_loss_coef": number(least=0, most=1e6),
    "router_jitter_noise": _SHARE,
    "scale_depth": number(above=0, most=1e6),
    "scale_emb": number(above=0, most=1e6),
    "sliding_window": count().or_null(),
    "tie_word_embeddings": FLAG,
    "use_cache": FLAG,
    "use_sliding_window": FLAG,
    "vocab_size": _SIDE,
}
_PICTURES = {
    "batch_vision_input": FLAG,
    "drop_vision_last_layer": FLAG.or_null(),
    "image_size": count(most=2**16),
    "key_positions": one_of("sincos", "table", None),
    "max_slice_nums": count().or_null(),
    "mm_use_im_start_end": FLAG.or_null(),
    "mm_vision_tower": NAME,
    "num_query": _SIDE,
    "patch_size": _PATCH,
    "query_num": _SIDE,
    "query_positions": FLAG.or_null(),
    "scale_resolution": count().or_null(),
    "slice_config": OBJECT.or_null(),
    "slice_mode": FLAG.or_null(),
    "text_config": OBJECT,
    "use_image_id": FLAG.or_null(),
    "use_mm_proj": FLAG.or_null(),
    "vision_batch_size": count(),
    "vision_config": OBJECT,
    "vision_encoder": NAME,
    "vision_tower_overrides": OBJECT.or_null(),
    **dict.fromkeys(TAGS, TOKEN_ID.or_null()),
}
_SLICING = {
    "max_slice_nums": count().or_null(),
    "patch_size": count().or_null(),
    "scale_resolution": count().or_null(),
}
_TOWER = {
    "attend_padding": FLAG.or_null(),
    "attention_dropout": _SHARE,
    "batch_size": count(),
    "dtype": _DTYPE,
    "has_class_token": FLAG.or_null(),
    "hidden_act": _ACTIVATION,
    "hidden_size": _WIDTH,
    "image_size": count(most=2**16),
    "initializer_range": number(least=0, most=1e3),
    "intermediate_size": _SIDE,
    "layer_norm_eps": _EPSILON,
    "model_type": one_of(
        "siglip", "siglip_vision_model", "idefics2", "idefics2_vision", "minicpmv_vision",
        "minicpmv_vit",
    ),
    "num_attention_heads": _WIDTH,
    "num_channels": count(3, 3),
    "num_hidden_layers": _DEPTH,
    "omits_key_bias": FLAG.or_null(),
    "patch_size": _PATCH,
    "positions": one_of("grid", "row", None),
    "post_norm": FLAG.or_null(),
}  # fmt: skip
_OVERRIDES = {
    "depth": _DEPTH,
    "embed_dim": _WIDTH,
    "mlp_ratio": number(above=0, most=1e3),
    "num_heads": _WIDTH,
}
TOWER_SIZES = (
    "hidden_size",
    "image_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "patch_size",
)

# What every released file of a model has; a default would be another model.
_LANGUAGE_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
_SCALES = ("scale_emb", "scale_depth", "dim_model_base")


def check_config(fields: Mapping[str, Any], file: str = "config.json") -> None:
    """Check that the values of a `config.json`, flat or nested, are valid and complete.

    Args:
        fields: as in the file.
        file: how messages name it.

    Raises:
        ValueError: names file and field, what was found and what was expected.
    """
    check_fields(file, fields, _WHOLE_FILE)
    has_pictures = model_type_of(fields) in VISION_TYPES
    if has_pictures:
        _check_pictures(file, fields)
    nested = fields.get("text_config")
    if nested is None:
        check_fields(file, fields, _LANGUAGE)
        check_present(file, fields, _required(fields), "every released file has it")
        _check_language(file, fields, "", has_pictures)
    else:
        check_fields(file, nested, _LANGUAGE, "text_config.")
        _check_language(file, nested, "text_config.", has_pictures)


def _required(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields that the released file of such a model has, in the flat form."""
    model_type = model_type_of(fields)
    if model_type == "minicpm":
        # 2B-128k has rope_scaling, and nothing else tells it from the others, which say null.
        return (*_LANGUAGE_REQUIRED, *_SCALES, "rope_scaling")
    if model_type not in VISION_TYPES:
        return (*_LANGUAGE_REQUIRED, "rope_theta")
    release = release_of(fields)
    names: tuple[str, ...] = (*_LANGUAGE_REQUIRED, "num_key_value_heads", "rope_theta")
    if release.text_model_type == "minicpm":
        names += _SCALES
    names += ("num_query",) if model_type == "omnilmm" else ("query_num",)
    if release.slicing == "square":
        names += ("image_size",)
    if release.vision_tower == "navit":
        names += ("vision_config",)
    if release.version == "2.0":
        names += ("slice_mode", "patch_size")
    return names


def _check_pictures(file: str, fields: Mapping[str, Any]) -> None:
    check_fields(file, fields, _PICTURES)
    check_fields(file, fields.get("slice_config") or {}, _SLICING, "slice_config.")
    _check_version(file, fields)
    overrides = fields.get("vision_tower_overrides") or {}
    check_fields(file, overrides, _OVERRIDES, "vision_tower_overrides.")
    width, heads = overrides.get("embed_dim"), overrides.get("num_heads")
    if width and heads and width % heads:
        expected = f"a divisor of vision_tower_overrides.embed_dim {width}"
        raise damaged(file, "vision_tower_overrides.num_heads", heads, expected)
    _check_grids(file, fields)
    tower = fields.get("vision_config")
    if tower is None:
        return
    check_fields(file, tower, _TOWER, "vision_config.")
    if "text_config" not in fields and release_of(fields).vision_tower == "navit":
        names = [f"vision_config.{name}" for name in TOWER_SIZES if name not in tower]
        check_present(
            file, {}, names, "the shape of the vision tower does not follow from the rest"
        )
    heads, width = tower.get("num_attention_heads"), tower.get("hidden_size")
    if heads and width and width % heads:
        raise damaged(
            file,
            "vision_config.num_attention_heads",
            heads,
            f"a divisor of vision_config.hidden_size {width}",
        )
    side, patch_size = tower.get("image_size"), tower.get("patch_size")
    if side and patch_size and side < patch_size:
        raise damaged(
            file,
            "vision_config.image_size",
            side,
            f"at least vision_config.patch_size {patch_size}",
        )


def _check_grids(file: str, fields: Mapping[str, Any]) -> None:
    """Queries and patches that lie in a square fill it."""
    release = release_of(fields)
    for name in ("query_num", "num_query"):
        queries = fields.get(name)
        is_grid = release.query_positions or release.key_positions == "table"
        if queries and is_grid and math.isqrt(queries) ** 2 != queries:
            raise damaged(file, name, queries, "a square such as 64, for the queries lie in a grid")
    side, tower = fields.get("image_size"), fields.get("vision_config") or {}
    patch = tower.get("patch_size", _PATCH_SIDE)
    if release.slicing == "square" and side and side % patch:
        expected = f"a multiple of {patch}, the side of a patch"
        raise damaged(file, "image_size", side, expected)


def _check_version(file: str, fields: Mapping[str, Any]) -> None:
    """Check that the release is known; only `version` tells 2.5 from 2.6."""
    version = fields.get("version")
    if not isinstance(version, str | int | float | None) or isinstance(version, bool):
        raise damaged(file, "version", version, f"one of {', '.join(RELEASES)}")
    try:
        release = release_of(fields)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if release.model_type != model_type_of(fields):
        raise ValueError(
            f"{file}: Release {release.version!r} is of model type {release.model_type!r}, and "
            f"this config says {model_type_of(fields)!r}."
        )
    tower = fields.get("vision_config") or {}
    is_told = version is not None or release.version != "2.5" or "text_config" in fields
    if not is_told and tower.get("model_type") != "idefics2":
        raise ValueError(
            f"{file} has no version, and nothing else in it tells which release it is of. Add "
            '"version": 2.6, or the one that it is, or take the release\'s own file.'
        )


def _check_language(file: str, fields: Mapping[str, Any], prefix: str, has_pictures: bool) -> None:
    """Check numbers of the language model against each other."""
    values: dict[str, Any] = dict(fields)
    width, heads = values.get("hidden_size", 0), values.get("num_attention_heads", 0)
    kv_heads, vocab_size = values.get("num_key_value_heads", 0), values.get("vocab_size", 0)
    if width and has_pictures and width % 128:
        expected = "a multiple of 128, the width of the resampler's heads"
        raise damaged(file, prefix + "hidden_size", width, expected)
    if width and heads and not fields.get("head_dim") and width % (2 * heads):
        raise damaged(
            file, prefix + "num_attention_heads", heads, f"a divisor of half of hidden_size {width}"
        )
    if heads and kv_heads and heads % kv_heads:
        raise damaged(
            file,
            prefix + "num_key_value_heads",
            kv_heads,
            f"a divisor of num_attention_heads {heads}",
        )
    for name in (*_TOKEN_FIELDS, *(TAGS if not prefix else ())):
        ids = fields.get(name)
        for token_id in ids if isinstance(ids, list) else [ids]:
            if vocab_size and token_id is not None and token_id >= vocab_size:
                raise damaged(file, prefix + name, ids, f"a token id below vocab_size {vocab_size}")
    experts, chosen = fields.get("num_experts"), fields.get("num_experts_per_tok")
    if experts and chosen is not None and not 1 <= chosen <= experts:
        expected = f"a whole number from 1 to num_experts {experts}"
        raise damaged(file, prefix + "num_experts_per_tok", chosen, expected)
    for name in ("rope_scaling", "rope_parameters"):
        _check_rope(file, fields, name, prefix)


def _check_rope(file: str, fields: Mapping[str, Any], name: str, prefix: str) -> None:
    rope = fields.get(name)
    if rope is None:
        return
    if not isinstance(rope, dict):
        raise damaged(file, prefix + name, rope, 'null, or {"type": "dynamic", "factor": 4.0}')
    known = ("default", *ROPE_INIT_FUNCTIONS)
    kind = rope.get("rope_type", rope.get("type"))
    if kind is None and name == "rope_parameters":
        kind = "default"
    if not isinstance(kind, str) or kind not in known:
        raise damaged(file, f"{prefix}{name}.type", kind, f"one of {', '.join(known)}")
    factor: Any = rope.get("factor")
    needs_factor = kind in ("linear", "dynamic")
    if (needs_factor or factor is not None) and not (is_number(factor) and 1 < factor <= 1e6):
        raise damaged(file, f"{prefix}{name}.factor", factor, "a finite number above 1")
    rules = {"rope_theta": _LANGUAGE["rope_theta"]}
    check_fields(file, rope, rules, f"{prefix}{name}.")
