"""The vision sides of all members in the layout that llama.cpp reads."""

import math

import numpy as np
import pytest
import torch

from minicpmv.export.gguf.positions import SIDE, placed_rows
from minicpmv.export.gguf.source import Source
from minicpmv.export.gguf.vision import ORIGINAL_TABLE
from minicpmv.model.positions import position_buckets

from .members import FOLDERS, PICTURES, exported, vision

VERSIONS = {"1.0": 1, "2.0": 1, "omnilmm-12b": 1, "2.5": 2, "2.6": 3, "nano": 3}
RESOLUTIONS = {model: 224 if model == "nano" else 448 for model in PICTURES}


@pytest.mark.parametrize("model", PICTURES)
def test_every_key_that_llama_cpp_reads_is_there(model: str) -> None:
    file = vision(model, "F16")
    with Source(FOLDERS[model]) as source:
        config = source.config
        tower = config.vision_config
    expected = {
        "general.architecture": ("clip", "str"),
        "general.file_type": (1, "u32"),
        "clip.has_vision_encoder": (True, "bool"),
        "clip.projector_type": ("resampler", "str"),
        "clip.minicpmv_version": (VERSIONS[model], "i32"),
        "clip.minicpmv_query_num": (config.query_num, "u32"),
        "clip.use_gelu": (True, "bool"),
        "clip.vision.image_size": (RESOLUTIONS[model], "u32"),
        "clip.vision.patch_size": (14, "u32"),
        "clip.vision.embedding_length": (tower.hidden_size, "u32"),
        "clip.vision.feed_forward_length": (tower.intermediate_size, "u32"),
        "clip.vision.attention.head_count": (tower.num_attention_heads, "u32"),
        "clip.vision.projection_dim": (0, "u32"),
    }
    assert {key: (file.metadata[key], file.types[key]) for key in expected} == expected
    assert file.types["clip.vision.attention.layer_norm_epsilon"] == "f32"
    for key in ("image_mean", "image_std"):
        assert file.types[f"clip.vision.{key}"] == "[f32]"
        assert len(file.metadata[f"clip.vision.{key}"]) == 3
    layers = {name.split(".")[2] for name in file.tensors if name.startswith("v.blk.")}
    assert len(layers) == file.metadata["clip.vision.block_count"]


@pytest.mark.parametrize("model", PICTURES)
def test_projections_are_parted_and_the_last_is_turned(model: str) -> None:
    file = vision(model)
    prefix = "model." if model == "omnilmm-12b" else ""
    with Source(FOLDERS[model]) as source:
        joint = source.whole(f"{prefix}resampler.attn.in_proj_weight").float()
        last = source.whole(f"{prefix}resampler.proj").float()
        down = source.whole(f"{prefix}resampler.kv_proj.weight").float()
    parts = [file.tensor(f"resampler.attn.{each}.weight") for each in "qkv"]
    assert np.array_equal(np.concatenate(parts), joint.numpy())
    assert np.array_equal(file.tensor("resampler.proj.weight"), last.T.numpy())
    assert np.array_equal(file.tensor("resampler.kv.weight"), down.numpy())
    assert file.tensors["resampler.pos_embed_k"].shape == (1, len(last))


@pytest.mark.parametrize("model", ["2.5", "2.6", "nano"])
def test_every_tensor_of_the_tower_is_named(model: str) -> None:
    file = vision(model)
    with Source(FOLDERS[model]) as source:
        layer = source.config.vision_config.num_hidden_layers - 1
        block, inner = f"v.blk.{layer}", f"vpm.encoder.layers.{layer}"
        for ours, theirs in {
            "v.patch_embd.weight": "vpm.embeddings.patch_embedding.weight",
            "v.post_ln.bias": "vpm.post_layernorm.bias",
            f"{block}.ln1.weight": f"{inner}.layer_norm1.weight",
            f"{block}.ln2.bias": f"{inner}.layer_norm2.bias",
            f"{block}.attn_out.weight": f"{inner}.self_attn.out_proj.weight",
            f"{block}.attn_k.bias": f"{inner}.self_attn.k_proj.bias",
            f"{block}.ffn_up.weight": f"{inner}.mlp.fc1.weight",
            f"{block}.ffn_down.weight": f"{inner}.mlp.fc2.weight",
        }.items():
            assert np.array_equal(file.tensor(ours), source.whole(theirs).float().numpy()), ours
        theirs = [name for name in source.shapes if name.startswith("vpm.")]
    towers = [name for name in file.tensors if name.startswith("v.")]
    assert len(towers) == len(theirs)


def test_joint_projections_of_the_old_towers_are_parted() -> None:
    old, eva = vision("2.0"), vision("omnilmm-12b")
    with Source(FOLDERS["2.0"]) as source:
        joint = source.whole("vpm.blocks.0.attn.qkv.weight").numpy()
        bias = source.whole("vpm.blocks.0.attn.qkv.bias").numpy()
        table = source.whole("vpm.pos_embed").numpy()
    parts = [old.tensor(f"v.blk.0.attn_{each}.weight") for each in "qkv"]
    assert np.array_equal(np.concatenate(parts), joint)
    parts = [old.tensor(f"v.blk.0.attn_{each}.bias") for each in "qkv"]
    assert np.array_equal(np.concatenate(parts), bias)
    assert np.array_equal(old.tensor("v.position_embd.weight"), table[0])
    assert "v.blk.0.attn_q.bias" in eva.tensors
    assert "v.blk.0.attn_k.bias" not in eva.tensors
    assert "v.class_embd" in eva.tensors
    assert eva.metadata["minicpmv.vision.post_norm"] is True


def looked_up(rows: int, cols: int) -> torch.Tensor:
    """Where llama.cpp looks for the patches of a slice."""
    index = [
        math.floor(70.0 * row / rows) * 70 + math.floor(70.0 * col / cols)
        for row in range(rows)
        for col in range(cols)
    ]
    return torch.tensor(index)


def test_nano_finds_its_positions_in_square_slices() -> None:
    placed = placed_rows("grid", 56, 224, 14)
    assert placed is not None
    buckets = position_buckets(16, 56)
    expected = (buckets[:, None] * 56 + buckets).flatten()
    assert torch.equal(placed[looked_up(16, 16)], expected)
    table = vision("nano").tensor("v.position_embd.weight")
    with Source("nano") as source:
        own = source.whole("vpm.embeddings.position_embedding.weight").float().numpy()
    assert np.array_equal(table, own[placed])
    assert np.array_equal(vision("nano").tensor(ORIGINAL_TABLE), own)


@pytest.mark.parametrize(("rows", "cols"), [(14, 18), (18, 14), (13, 19), (17, 15)])
def test_other_slices_of_nano_are_near(rows: int, cols: int) -> None:
    placed = placed_rows("grid", 56, 224, 14)
    assert placed is not None
    found = placed[looked_up(rows, cols)]
    row, col = position_buckets(rows, 56), position_buckets(cols, 56)
    row, col = row.repeat_interleave(cols), col.repeat(rows)
    away = (found // 56 - row).abs() + (found % 56 - col).abs()
    assert away.max() <= 4
    assert away.float().mean() < 1.5


def test_lines_of_2_5_are_exact_in_square_slices_and_near_in_others() -> None:
    placed = placed_rows("row", SIDE, 448, 14)
    assert placed is not None
    assert torch.equal(placed[looked_up(32, 32)], position_buckets(32 * 32, SIDE))
    assert int(placed.max()) < SIDE
    for rows, cols in ((28, 37), (37, 28), (25, 41)):
        away = (placed[looked_up(rows, cols)] - position_buckets(rows * cols, SIDE)).abs()
        assert away.float().mean() < 2


def test_a_table_that_llama_cpp_reads_right_stays() -> None:
    assert placed_rows("grid", SIDE, 448, 14) is None
    assert ORIGINAL_TABLE not in vision("2.6").tensors


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_types_of_the_vision_side(kind: str) -> None:
    file = vision("nano", kind)
    types = {name: info.type.name for name, info in file.tensors.items()}
    assert types["v.patch_embd.weight"] == ("F32" if kind == "BF16" else "F16")
    assert types["v.position_embd.weight"] == ("F16" if kind == "Q8_0" else kind)
    assert types["v.blk.0.ffn_down.weight"] == kind
    assert types["resampler.query"] == types["v.blk.0.attn_q.bias"] == "F32"
    odd = vision("2.6", kind)  # 36 columns are no block of 32
    assert odd.tensors["v.blk.0.attn_q.weight"].type.name == ("F16" if kind == "Q8_0" else kind)


@pytest.mark.parametrize("model", ["1.0", "2.0", "omnilmm-12b"])
def test_it_is_told_that_no_other_program_runs_these(model: str) -> None:
    assert any("refuses the file" in note for note in exported(model).notes)
