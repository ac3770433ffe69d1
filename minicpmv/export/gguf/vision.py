"""The vision side as llama.cpp's `mmproj` file: the tower and the resampler, metadata and tensors.

llama.cpp runs those of 2.5, 2.6 and nano. The towers of 1.0, 2.0 and OmniLMM-12B are written in the
same layout, under a version that llama.cpp refuses by name, so that no program runs them as what
they are not.
"""

from collections.abc import Iterator
from typing import Any

import torch

from ...gguf.types import BF16, F16, F32, Q8_0, GGMLType
from ...gguf.values import Typed, Value
from .positions import placed_rows
from .source import Source, Tensor

TYPES = {"F32": F32, "F16": F16, "BF16": BF16, "Q8_0": Q8_0}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}
ORIGINAL_TABLE = "minicpmv.position_embd.weight"
# What llama.cpp calls the kinds of vision sides; it refuses 1.
_VERSIONS = {"2.5": 2, "2.6": 3}
_OTHER_VERSION = 1
_NAVIT = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_VIT = {
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
_FIXED = {
    "embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "embeddings.patch_embedding.bias": "v.patch_embd.bias",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
    "post_layernorm.weight": "v.post_ln.weight",
    "post_layernorm.bias": "v.post_ln.bias",
    "patch_embed.proj.weight": "v.patch_embd.weight",
    "patch_embed.proj.bias": "v.patch_embd.bias",
    "pos_embed": "v.position_embd.weight",
    "cls_token": "v.class_embd",
    "norm.weight": "v.post_ln.weight",
    "norm.bias": "v.post_ln.bias",
}
# Kept in float32 in every file: small, and added to or looked up in.
_WIDE = {"resampler.query", "resampler.pos_embed_k", "resampler.pos_embed", "v.class_embd"}


def runs_in_llama_cpp(config: Any) -> bool:
    """Whether llama.cpp has code for the vision side."""
    return str(config.version) in _VERSIONS


def vision_metadata(source: Source, file_type: str) -> dict[str, Value]:
    """Numbers of the vision side, by llama.cpp's keys."""
    config, images = source.config, source.processor.image_processor  # type: ignore[union-attr]
    tower = config.vision_config
    is_navit = config.release.vision_tower == "navit"
    resolution = images.scale_resolution or images.image_size
    metadata: dict[str, Value] = {
        "general.architecture": "clip",
        "general.name": source.label,
        "general.file_type": FILE_TYPES[file_type],
        "clip.has_vision_encoder": True,
        "clip.has_text_encoder": False,
        "clip.has_minicpmv_projector": True,
        "clip.projector_type": "resampler",
        "clip.minicpmv_version": Typed(_VERSIONS.get(str(config.version), _OTHER_VERSION), "i32"),
        "clip.minicpmv_query_num": config.query_num,
        "clip.use_gelu": True,
        "clip.vision.image_size": resolution,
        "clip.vision.patch_size": tower.patch_size,
        "clip.vision.embedding_length": tower.hidden_size,
        "clip.vision.feed_forward_length": tower.intermediate_size,
        "clip.vision.block_count": num_layers(config),
        "clip.vision.attention.head_count": tower.num_attention_heads,
        "clip.vision.projection_dim": 0,
        "clip.vision.attention.layer_norm_epsilon": float(tower.layer_norm_eps),
        "clip.vision.image_mean": [float(value) for value in images.image_mean],
        "clip.vision.image_std": [float(value) for value in images.image_std],
        "minicpmv.version": str(config.version),
    }
    if not is_navit:
        metadata["minicpmv.vision.post_norm"] = bool(tower.post_norm)
        metadata["minicpmv.vision.gelu"] = "erf"
    return metadata


def num_layers(config: Any) -> int:
    """Layers of the tower that are run."""
    dropped = bool(config.drop_vision_last_layer)
    return int(config.vision_config.num_hidden_layers) - dropped


def vision_tensors(source: Source) -> list[Tensor]:
    """Every tensor of the vision side, in llama.cpp's names."""
    names = ("vpm.", "model.vision_tower."), ("resampler.", "model.resampler.")
    tensors: list[Tensor] = []
    for name in source.shapes:
        for prefix in names[0]:
            if name.startswith(prefix):
                tensors += _of_tower(source, name, name.removeprefix(prefix))
        for prefix in names[1]:
            if name.startswith(prefix):
                tensors += _of_resampler(source, name, name.removeprefix(prefix))
    if not any(tensor.name == "resampler.pos_embed_k" for tensor in tensors):
        # llama.cpp wants it and computes the positions of keys itself.
        width = source.config.get_text_config().hidden_size
        tensors.append(
            Tensor("resampler.pos_embed_k", (1, width), lambda: iter([torch.zeros(1, width)]))
        )
    return tensors


def _of_tower(source: Source, name: str, inner: str) -> list[Tensor]:
    if inner == "embeddings.position_embedding.weight":
        return _positions(source, name)
    if inner in ("pos_embed", "cls_token"):
        shape = source.shapes[name][1:]

        def first() -> Iterator[torch.Tensor]:
            yield source.whole(name)[0]

        return [Tensor(_FIXED[inner], shape, first)]
    if inner in _FIXED:
        return [source.as_is(_FIXED[inner], name)]
    stem, layer, rest = inner.removeprefix("encoder.").split(".", 2)
    part, _, end = rest.rpartition(".")
    block = f"v.blk.{layer}"
    if stem == "layers":
        return [source.as_is(f"{block}.{_NAVIT[part]}.{end}", name)]
    if part == "attn.qkv":
        return _thirds(source, name, [f"{block}.attn_{each}.{end}" for each in "qkv"])
    if rest in ("attn.q_bias", "attn.v_bias"):  # keys have none
        return [source.as_is(f"{block}.attn_{rest[5]}.bias", name)]
    return [source.as_is(f"{block}.{_VIT[part]}.{end}", name)]


def _of_resampler(source: Source, name: str, inner: str) -> list[Tensor]:
    if inner == "proj":

        def turned() -> Iterator[torch.Tensor]:
            yield source.whole(name).T.contiguous()

        return [Tensor("resampler.proj.weight", source.shapes[name][::-1], turned)]
    if inner.startswith("attn.in_proj_"):
        end = inner.removeprefix("attn.in_proj_")
        return _thirds(source, name, [f"resampler.attn.{each}.{end}" for each in "qkv"])
    if inner == "pos_embed":
        return [source.as_is("resampler.pos_embed", name)]
    target = inner.replace("kv_proj.", "kv.").replace("attn.out_proj.", "attn.out.")
    return [source.as_is(f"resampler.{target}", name)]


def _thirds(source: Source, name: str, targets: list[str]) -> list[Tensor]:
    """A tensor of queries, keys and values as three."""
    height, *rest = source.shapes[name]
    return [
        Tensor(
            target,
            (height // 3, *rest),
            lambda place=place: iter([source.whole(name).chunk(3)[place]]),  # type: ignore[misc]
        )
        for place, target in enumerate(targets)
    ]


def _positions(source: Source, name: str) -> list[Tensor]:
    """The table as llama.cpp looks it up; and, where that is another, the model's own."""
    tower, images = source.config.vision_config, source.processor.image_processor  # type: ignore[union-attr]
    side = tower.image_size // tower.patch_size
    rows = placed_rows(tower.positions or "grid", side, images.scale_resolution, tower.patch_size)
    if rows is None:
        return [source.as_is("v.position_embd.weight", name)]

    def placed() -> Iterator[torch.Tensor]:
        yield source.whole(name)[rows]

    shape = (len(rows), *source.shapes[name][1:])
    return [Tensor("v.position_embd.weight", shape, placed), source.as_is(ORIGINAL_TABLE, name)]


def vision_type(tensor: Tensor, file_type: str) -> GGMLType:
    """How a tensor is stored.

    The kernel of patches is read as float16 or float32 only; a row that is no whole number of
    blocks becomes float16, as a table that is looked up does.
    """
    if len(tensor.shape) < 2 or tensor.name in _WIDE or file_type == "F32":
        return F32
    if len(tensor.shape) == 4:
        return F32 if file_type == "BF16" else F16
    wanted = TYPES[file_type]
    is_table = tensor.name in ("v.position_embd.weight", ORIGINAL_TABLE)
    if wanted is Q8_0 and (is_table or tensor.shape[-1] % Q8_0.block):
        return F16
    return wanted


def vision_statements(config: Any) -> list[str]:
    """Which program runs the file, and what it does otherwise than the model."""
    version = str(config.version)
    if not runs_in_llama_cpp(config):
        return [
            f"No program but this package runs the vision side of {config.release.name}: llama.cpp "
            'refuses the file ("unsupported minicpmv version"), and runs the language model alone.'
        ]
    lines = []
    if version == "2.5":
        lines.append(
            "llama.cpp numbers patches by rows and columns, 2.5 along one line: the table of "
            "positions is rewritten, exact for square slices, approximate for others."
        )
    elif config.vision_config.image_size != 980:
        lines.append(
            "llama.cpp has a table of 70 x 70 positions: the model's is placed in it, exact for "
            "square slices, approximate for others."
        )
    return lines
