"""The language models of all members as llama.cpp names and scales them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from minicpmv.export.gguf.run import export
from minicpmv.export.gguf.source import Source
from minicpmv.gguf.container import GGUFFile

from .members import FOLDERS, exported, language

ARCHITECTURES = {
    **dict.fromkeys(("1b", "2b", "2b-128k", "moe-8x2b", "1.0", "2.0"), "minicpm"),
    **dict.fromkeys(("2.5", "omnilmm-12b"), "llama"),
    **dict.fromkeys(("2.6", "nano"), "qwen2"),
}
PREFIXES = dict.fromkeys(("1.0", "2.0", "2.5", "2.6", "nano"), "llm.")


def turned_back(rows: np.ndarray, heads: int) -> np.ndarray:
    """Channels that llama.cpp turns together, half a head apart again."""
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize("model", FOLDERS)
def test_every_weight_of_the_language_model_is_in_the_file(model: str) -> None:
    file = language(model)
    prefix = PREFIXES.get(model, "")
    with Source(FOLDERS[model]) as source:
        text = source.config.get_text_config()
        pairs = {
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
        }
        if not source.is_tied:
            pairs["output.weight"] = "lm_head.weight"
        for layer in range(text.num_hidden_layers):
            pairs |= {
                f"blk.{layer}.{ours}.weight": f"model.layers.{layer}.{theirs}.weight"
                for ours, theirs in (
                    ("attn_norm", "input_layernorm"),
                    ("ffn_norm", "post_attention_layernorm"),
                    ("attn_q", "self_attn.q_proj"),
                    ("attn_k", "self_attn.k_proj"),
                    ("attn_v", "self_attn.v_proj"),
                    ("attn_output", "self_attn.o_proj"),
                )
            }
        for ours, theirs in pairs.items():
            expected = source.whole(prefix + theirs).float().numpy()
            found = file.tensor(ours)
            if ARCHITECTURES[model] != "qwen2" and ours.split(".")[-2] in ("attn_q", "attn_k"):
                is_query = ours.endswith("attn_q.weight")
                heads = text.num_attention_heads if is_query else text.num_key_value_heads
                found = turned_back(found, heads)
            assert np.array_equal(found, expected), ours
        language_names = [
            n for n in source.shapes if n.startswith((prefix or "model.layers", "lm"))
        ]
        assert len(file.tensors) <= len(language_names) + 3
    assert ("output.weight" in file.tensors) == (model not in ("1b", "2b", "moe-8x2b"))


@pytest.mark.parametrize("model", FOLDERS)
def test_numbers_of_the_config_are_in_the_metadata(model: str) -> None:
    file, kind = language(model), ARCHITECTURES[model]
    with Source(FOLDERS[model]) as source:
        text = source.config.get_text_config()
    said = file.metadata
    assert said["general.architecture"] == kind
    assert said["general.file_type"] == 0
    assert said["general.quantization_version"] == 2
    expected = {
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "block_count": text.num_hidden_layers,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": np.float32(text.rms_norm_eps),
        "rope.freq_base": np.float32(text.rope_parameters["rope_theta"]),
    }
    assert {key: said[f"{kind}.{key}"] for key in expected} == pytest.approx(expected)
    assert file.types[f"{kind}.attention.layer_norm_rms_epsilon"] == "f32"
    assert file.types[f"{kind}.context_length"] == "u32"
    assert len(said["tokenizer.ggml.tokens"]) == text.vocab_size


@pytest.mark.parametrize(
    "model", [model for model, kind in ARCHITECTURES.items() if kind == "minicpm"]
)
def test_minicpm_says_its_three_scales(model: str) -> None:
    said = language(model).metadata
    with Source(FOLDERS[model]) as source:
        text = source.config.get_text_config()
    assert said["minicpm.embedding_scale"] == text.scale_emb
    assert said["minicpm.residual_scale"] == pytest.approx(
        text.scale_depth / math.sqrt(text.num_hidden_layers), rel=1e-7
    )
    assert said["minicpm.logit_scale"] == text.hidden_size / text.dim_model_base


def test_experts_are_stacked_gate_up_down(tmp_path: Path) -> None:
    file = language("moe-8x2b")
    assert file.metadata["minicpm.expert_count"] == 8
    assert file.metadata["minicpm.expert_used_count"] == 2
    with Source(FOLDERS["moe-8x2b"]) as source:
        for name, part in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            expected = torch.stack(
                [source.whole(f"model.layers.1.mlp.experts.{i}.{part}.weight") for i in range(8)]
            )
            assert np.array_equal(file.tensor(f"blk.1.ffn_{name}_exps.weight"), expected.numpy())
        router = source.whole("model.layers.0.mlp.gate.weight").numpy()
    for kind in ("F16", "Q4_0"):  # neither stored in fewer bits nor rounded on the way
        written = GGUFFile(export(FOLDERS["moe-8x2b"], tmp_path, [kind], progress=False).files[0])
        assert written.tensors["blk.0.ffn_gate_inp.weight"].type.name == "F32"
        assert np.array_equal(written.tensor("blk.0.ffn_gate_inp.weight"), router)


def test_biases_of_qwen2_stay_float32() -> None:
    file = language("2.6", "F16")
    with Source(FOLDERS["2.6"]) as source:
        expected = source.whole("llm.model.layers.1.self_attn.k_proj.bias").numpy()
    assert file.tensors["blk.1.attn_k.bias"].type.name == "F32"
    assert np.array_equal(file.tensor("blk.1.attn_k.bias"), expected)


def test_dynamic_rope_is_told_and_ends_where_it_would_begin() -> None:
    (note,) = exported("2b-128k").notes
    assert "no dynamic rope" in note
    assert language("2b-128k").metadata["minicpm.context_length"] == 48


@pytest.mark.parametrize("model", ["2.5", "2b"])
def test_tensors_stand_as_llama_quantize_writes_them(model: str) -> None:
    names = list(language(model).tensors)
    first = [name for name in names if not name.startswith("blk.")]
    assert names[: len(first)] == sorted(first)
    layers = [int(name.split(".")[1]) for name in names[len(first) :]]
    assert layers == sorted(layers)
    assert names[len(first) : len(first) + layers.count(0)] == sorted(
        name for name in names if name.startswith("blk.0.")
    )
