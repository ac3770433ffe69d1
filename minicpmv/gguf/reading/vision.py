"""The tensors of a vision side (an `mmproj` file), from llama.cpp's names to the released ones.

Files of llama.cpp's first converter call the first matrix of an MLP `ffn_down` and the second
`ffn_up`; their shapes tell. A table of positions that was rewritten for llama.cpp stands beside the
model's own, which is taken.
"""

import re

from ...errors import short
from ..container import GGUFFile
from .recipes import Recipe, as_is

ORIGINAL_TABLE = "minicpmv.position_embd.weight"
_TABLE = "v.position_embd.weight"
_NAVIT = {
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
_VIT = {"ln1": "norm1", "ln2": "norm2", "attn_out": "attn.proj", "ffn_up": "mlp.fc1"}
_VIT["ffn_down"] = "mlp.fc2"
_FIXED_NAVIT = {
    "v.patch_embd.weight": "embeddings.patch_embedding.weight",
    "v.patch_embd.bias": "embeddings.patch_embedding.bias",
    "v.post_ln.weight": "post_layernorm.weight",
    "v.post_ln.bias": "post_layernorm.bias",
}
_FIXED_VIT = {
    "v.patch_embd.weight": "patch_embed.proj.weight",
    "v.patch_embd.bias": "patch_embed.proj.bias",
    "v.post_ln.weight": "norm.weight",
    "v.post_ln.bias": "norm.bias",
}
_RESAMPLER = {"kv": "kv_proj", "attn.out": "attn.out_proj"}
_SWAPPED = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}


def vision_recipes(file: GGUFFile, release: str, *, is_navit: bool) -> dict[str, Recipe]:
    """Every tensor of the vision side by its released name.

    Args:
        release: the version; OmniLMM's names begin otherwise.
        is_navit: whether the tower is that of 2.5 and 2.6, else timm's.

    Raises:
        ValueError: the file has a tensor that no vision side of this family has.
    """
    whole = "model." if release == "omnilmm-12b" else ""
    tower = f"{whole}vision_tower." if whole else "vpm."
    reader = _Reader(file, tower, f"{whole}resampler.", is_navit)
    for name in file.tensors:
        reader.read(name)
    return reader.found


class _Reader:
    def __init__(self, file: GGUFFile, tower: str, resampler: str, is_navit: bool):
        self.file, self.tower, self.resampler = file, tower, resampler
        self.is_navit = is_navit
        self.found: dict[str, Recipe] = {}
        self._first = self._swapped_layers()

    def read(self, name: str) -> None:
        fixed = _FIXED_NAVIT if self.is_navit else _FIXED_VIT
        if name in fixed:
            self.found[self.tower + fixed[name]] = as_is(self.file, name)
        elif name in (_TABLE, ORIGINAL_TABLE):
            self._table(name)
        elif name == "v.class_embd" and not self.is_navit:
            width = self.file.info(name).shape[-1]
            self.found[self.tower + "cls_token"] = as_is(self.file, name, (1, 1, width))
        elif name.startswith("v.blk."):
            self._layer(name)
        elif name.startswith("resampler."):
            self._of_resampler(name)
        else:
            raise self._unknown(name)

    def _table(self, name: str) -> None:
        if name == _TABLE and ORIGINAL_TABLE in self.file.tensors:
            return
        shape = self.file.info(name).shape
        if self.is_navit:
            self.found[f"{self.tower}embeddings.position_embedding.weight"] = as_is(self.file, name)
        else:
            self.found[f"{self.tower}pos_embed"] = as_is(self.file, name, (1, *shape))

    def _swapped_layers(self) -> set[str]:
        """Layers whose two matrices have each other's name: `ffn_down` reads the tower's width."""
        norm = self.file.tensors.get("v.post_ln.weight")
        if norm is None:
            return set()
        width = norm.shape[0]
        found = set()
        for name, info in self.file.tensors.items():
            match = re.fullmatch(r"v\.blk\.(\d+)\.ffn_down\.weight", name)
            if match and info.shape[-1] == width != info.shape[0]:
                found.add(match[1])
        return found

    def _layer(self, name: str) -> None:
        match = re.fullmatch(r"v\.blk\.(\d+)\.(\w+)\.(weight|bias)", name)
        if match is None:
            raise self._unknown(name)
        layer, part, end = match.groups()
        if layer in self._first:
            part = _SWAPPED.get(part, part)
        if self.is_navit:
            if part not in _NAVIT:
                raise self._unknown(name)
            target = f"{self.tower}encoder.layers.{layer}.{_NAVIT[part]}.{end}"
            self.found[target] = as_is(self.file, name)
            return
        place = f"{self.tower}blocks.{layer}."
        if part in _VIT:
            self.found[f"{place}{_VIT[part]}.{end}"] = as_is(self.file, name)
        elif part in ("attn_q", "attn_k", "attn_v"):
            names = [f"v.blk.{layer}.attn_{each}.{end}" for each in "qkv"]
            if all(each in self.file.tensors for each in names):
                self.found[f"{place}attn.qkv.{end}"] = self._joined(names)
            elif end == "bias" and part != "attn_k":  # keys have none
                self.found[f"{place}attn.{part[-1]}_bias"] = as_is(self.file, name)
            else:
                raise self._unknown(name)
        else:
            raise self._unknown(name)

    def _of_resampler(self, name: str) -> None:
        inner = name.removeprefix("resampler.")
        if inner == "pos_embed_k":  # computed
            return
        if inner == "proj.weight":
            shape = self.file.info(name).shape
            recipe = Recipe(self.file, (name,), shape[::-1], is_turned=True)
            self.found[f"{self.resampler}proj"] = recipe
            return
        if inner in ("query", "pos_embed"):
            self.found[self.resampler + inner] = as_is(self.file, name)
            return
        stem, _, end = inner.rpartition(".")
        if stem in ("attn.q", "attn.k", "attn.v") and end in ("weight", "bias"):
            names = [f"resampler.attn.{each}.{end}" for each in "qkv"]
            if not all(each in self.file.tensors for each in names):
                raise ValueError(
                    f"{str(self.file.path)!r} has {name!r} and not all of {', '.join(names)}. "
                    "Get it again."
                )
            self.found[f"{self.resampler}attn.in_proj_{end}"] = self._joined(names)
            return
        self.found[f"{self.resampler}{_RESAMPLER.get(stem, stem)}.{end}"] = as_is(self.file, name)

    def _joined(self, names: list[str]) -> Recipe:
        shapes = [self.file.info(name).shape for name in names]
        if len({shape[1:] for shape in shapes}) > 1:
            raise ValueError(
                f"{str(self.file.path)!r} has {', '.join(names)} of unlike widths. Get it again."
            )
        height = sum(shape[0] for shape in shapes)
        return Recipe(self.file, tuple(names), (height, *shapes[0][1:]))

    def _unknown(self, name: str) -> ValueError:
        return ValueError(
            f"{str(self.file.path)!r} has the tensor {short(name, 80)}, which no vision side of "
            "this family has, so it is not one of them."
        )
