"""Which tensors a released checkpoint has, from its `config.json` and the rules of naming alone.

Written from the facts about the released files and from no class of ours, so that the classes can
be held against it. `released_configs/` holds what each released `config.json` says.
"""

import json
import math
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "released_configs"


def released(member):
    return json.loads((CONFIGS / f"{member}.json").read_text())


def language_model(config, biases=()):
    """Tensors of a Llama-like decoder, and of MiniCPM's with and without experts."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    inner = config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        tensors[f"{layer}.input_layernorm.weight"] = (hidden,)
        tensors[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for name, rows in (("q", hidden), ("k", narrow), ("v", narrow), ("o", hidden)):
            tensors[f"{layer}.self_attn.{name}_proj.weight"] = (rows, hidden)
            if name in biases:
                tensors[f"{layer}.self_attn.{name}_proj.bias"] = (rows,)
        if config.get("num_experts"):
            tensors[f"{layer}.mlp.gate.weight"] = (config["num_experts"], hidden)
            for e in range(config["num_experts"]):
                tensors[f"{layer}.mlp.experts.{e}.w1.weight"] = (inner, hidden)
                tensors[f"{layer}.mlp.experts.{e}.w2.weight"] = (hidden, inner)
                tensors[f"{layer}.mlp.experts.{e}.w3.weight"] = (inner, hidden)
        else:
            tensors[f"{layer}.mlp.gate_proj.weight"] = (inner, hidden)
            tensors[f"{layer}.mlp.up_proj.weight"] = (inner, hidden)
            tensors[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
    is_text_release = config["architectures"] == ["MiniCPMForCausalLM"]
    if not config.get("tie_word_embeddings", is_text_release):
        tensors["lm_head.weight"] = (vocabulary, hidden)
    return tensors


def with_bias(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def navit_tower(width, inner, layers, positions):
    """The tower of 2.5 and 2.6."""
    tensors = with_bias("embeddings.patch_embedding", width, 3, 14, 14)
    tensors["embeddings.position_embedding.weight"] = (positions, width)
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        tensors |= with_bias(f"{layer}.layer_norm1", width)
        tensors |= with_bias(f"{layer}.layer_norm2", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= with_bias(f"{layer}.self_attn.{name}", width, width)
        tensors |= with_bias(f"{layer}.mlp.fc1", inner, width)
        tensors |= with_bias(f"{layer}.mlp.fc2", width, inner)
    return tensors | with_bias("post_layernorm", width)


def timm_tower(width, inner, blocks, positions, is_eva):
    """The tower of 1.0 and 2.0, and OmniLMM's: a class token, and no bias for the keys."""
    tensors = with_bias("patch_embed.proj", width, 3, 14, 14) | with_bias("norm", width)
    tensors["pos_embed"] = (1, positions, width)
    if is_eva:
        tensors["cls_token"] = (1, 1, width)
    for i in range(blocks):
        block = f"blocks.{i}"
        tensors |= with_bias(f"{block}.norm1", width) | with_bias(f"{block}.norm2", width)
        tensors |= with_bias(f"{block}.attn.qkv", 3 * width, width)
        if is_eva:
            del tensors[f"{block}.attn.qkv.bias"]
            tensors[f"{block}.attn.q_bias"] = tensors[f"{block}.attn.v_bias"] = (width,)
        tensors |= with_bias(f"{block}.attn.proj", width, width)
        tensors |= with_bias(f"{block}.mlp.fc1", inner, width)
        tensors |= with_bias(f"{block}.mlp.fc2", width, inner)
    return tensors


def resampler(queries, width, tower_width, has_position_table):
    tensors = {
        "query": (queries, width),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "proj": (width, width),
    }
    if tower_width != width:
        tensors["kv_proj.weight"] = (width, tower_width)
    tensors |= with_bias("attn.out_proj", width, width)
    for name in ("ln_q", "ln_kv", "ln_post"):
        tensors |= with_bias(name, width)
    if has_position_table:
        tensors["pos_embed"] = (queries, width)
    return tensors


def parts(config):
    """Vision tower, resampler, language model: shape of every tensor, by released name.

    The language model alone for a text model.
    """
    is_qwen = str(config.get("version")) == "2.6"
    text = language_model(config, biases="qkv" if is_qwen else "")
    if config["architectures"] == ["MiniCPMForCausalLM"]:
        return [text]
    queries = config.get("query_num", config.get("num_query"))
    width = config["hidden_size"]
    if config["model_type"] == "omnilmm":
        tower = timm_tower(1792, 15360, blocks=63, positions=16 * 16 + 1, is_eva=True)
        prefixes = "model.vision_tower.", "model.resampler.", ""
        return prefixed(prefixes, tower, resampler(queries, width, 1792, True), text)
    is_old = "vision_encoder" in config
    if is_old:
        tower_width = 1152
        tower = timm_tower(tower_width, 4304, blocks=26, positions=27 * 27, is_eva=False)
    else:
        vision = config["vision_config"]
        tower_width = vision["hidden_size"]
        tower = navit_tower(
            tower_width,
            vision["intermediate_size"],
            vision["num_hidden_layers"],
            positions=(vision["image_size"] // vision["patch_size"]) ** 2,
        )
    return prefixed(
        ("vpm.", "resampler.", "llm."), tower, resampler(queries, width, tower_width, is_old), text
    )


def prefixed(prefixes, *parts):
    return [
        {prefix + name: shape for name, shape in part.items()}
        for prefix, part in zip(prefixes, parts, strict=True)
    ]


def count(tensors):
    return sum(math.prod(shape) for shape in tensors.values())
