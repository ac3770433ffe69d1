"""Every member at its true size, without memory for its weights.

`released_configs/` holds what each released `config.json` says. The tensors that belong to it are
written down here a second time, from the naming rules of the released files and from no class of
ours; their sums are the published ones.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import minicpmv.auto  # noqa: F401

CONFIGS = Path(__file__).parent / "released_configs"
TEXT = ("minicpm-2b", "minicpm-1b", "minicpm-2b-128k", "minicpm-moe-8x2b")

TOTALS = {
    "minicpm-v-1_0": 3_434_965_792,
    "minicpm-v-2": 3_434_965_792,
    "minicpm-llama3-v-2_5": 8_537_092_336,
    "minicpm-v-2_6": 8_099_175_152,
}
# Vision tower, resampler, language model.
PARTS = {
    "minicpm-llama3-v-2_5": (417_792_240, 89_038_848, 8_030_261_248),
    "minicpm-v-2_6": (417_792_240, 68_619_264, 7_612_763_648),
}
# Published without the embeddings.
BODIES = {"minicpm-2b": 2_442_057_984, "minicpm-1b": 1_247_442_432}
# Published as rounded numbers: total, and how exact it is.
ROUNDED = {"omnilmm-12b": (11.61e9, 0.01e9), "minicpm-moe-8x2b": (13.6e9 + 122753 * 2304, 0.05e9)}
# Bytes that the released index announces, and bytes of a number there. 2.5's counts four, though
# its files are float16.
INDEX_BYTES = {
    "minicpm-v-1_0": (6_869_931_584, 2),
    "minicpm-v-2": (6_869_931_584, 2),
    "minicpm-llama3-v-2_5": (34_148_369_344, 4),
    "minicpm-v-2_6": (16_198_350_304, 2),
}


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


def navit_tower(width=1152, inner=4304, layers=27, positions=4900):
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
        "kv_proj.weight": (width, tower_width),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "proj": (width, width),
    }
    tensors |= with_bias("attn.out_proj", width, width)
    for name in ("ln_q", "ln_kv", "ln_post"):
        tensors |= with_bias(name, width)
    if has_position_table:
        tensors["pos_embed"] = (queries, width)
    return tensors


def parts(member):
    """Vision tower, resampler, language model: shape of every tensor, by released name."""
    config = released(member)
    text = language_model(config, biases="qkv" if member == "minicpm-v-2_6" else "")
    if member in TEXT:
        return [text]
    queries = config.get("query_num", config.get("num_query"))
    width = config["hidden_size"]
    if member == "omnilmm-12b":
        tower = timm_tower(1792, 15360, blocks=63, positions=16 * 16 + 1, is_eva=True)
        prefixes = "model.vision_tower.", "model.resampler.", ""
        return prefixed(prefixes, tower, resampler(queries, width, 1792, True), text)
    if "vision_encoder" in config:
        tower = timm_tower(1152, 4304, blocks=26, positions=27 * 27, is_eva=False)
    else:
        tower = navit_tower()
    is_old = "vision_encoder" in config
    return prefixed(
        ("vpm.", "resampler.", "llm."), tower, resampler(queries, width, 1152, is_old), text
    )


def prefixed(prefixes, *parts):
    return [
        {prefix + name: shape for name, shape in part.items()}
        for prefix, part in zip(prefixes, parts, strict=True)
    ]


def count(tensors):
    return sum(math.prod(shape) for shape in tensors.values())


def test_the_rules_give_the_published_numbers():
    for member, total in TOTALS.items():
        assert sum(map(count, parts(member))) == total
        size, width = INDEX_BYTES[member]
        assert width * total == size
    for member, sizes in PARTS.items():
        assert tuple(map(count, parts(member))) == sizes
    for member, body in BODIES.items():
        (tensors,) = parts(member)
        assert count(tensors) - math.prod(tensors["model.embed_tokens.weight"]) == body
    for member, (total, error) in ROUNDED.items():
        assert sum(map(count, parts(member))) == pytest.approx(total, abs=error)


@pytest.mark.parametrize("member", [path.stem for path in sorted(CONFIGS.glob("*.json"))])
def test_the_model_has_the_released_tensors(member, tmp_path):
    shutil.copyfile(CONFIGS / f"{member}.json", tmp_path / "config.json")
    config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not any(tensor is other for other in tensors.values()):  # tied: once in the file
            tensors[model.released_name(name)] = tensor
    expected = {name: shape for part in parts(member) for name, shape in part.items()}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
