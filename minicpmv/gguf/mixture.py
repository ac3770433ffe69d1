"""Which tensor of a file gets which type: the rules of llama-quantize, without or with importance.

A mixture like Q4_K_M gives most tensors its base type and some, by role and layer, a better one;
rows whose length does not suit the type fall back to one with smaller blocks.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .types import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    FileType,
    GGMLType,
)

_FALLBACKS = {Q2_K: Q4_0, Q3_K: Q4_0, Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, IQ4_XS: IQ4_NL}
_EIGHT_EXPERTS_OUTPUT = {"Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"}
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Geometry:
    """What of a model the rules look at. `num_experts` is 0 where it has none."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_experts: int = 0
    architecture: str = ""

    @property
    def heads_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads


def file_order(names: Iterable[str]) -> list[str]:
    """As llama-quantize writes them: tensors of no layer, then layer by layer, each by name."""

    def place(name: str) -> tuple[int, bytes]:
        layer = _LAYER.match(name)
        return (int(layer[1]) if layer else -1, name.encode())

    return sorted(names, key=place)


def is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a mixture touches this tensor at all; the others stay F32."""
    kept = ("_norm.weight", "ffn_gate_inp.weight", ".position_embd", ".patch_embd")
    is_matrix = any(size > 1 for size in shape[:-1])  # ggml does not count axes of size 1 in front
    return is_matrix and name.endswith("weight") and not any(each in name for each in kept)


def tensor_types(
    shapes: Mapping[str, tuple[int, ...]],
    file_type: FileType,
    geometry: Geometry,
    *,
    has_importance: bool = False,
) -> dict[str, GGMLType]:
    """The type of every tensor of a language model, in the order of the file.

    Args:
        shapes: by the names of GGUF, in torch's order.
        has_importance: there is an importance matrix; llama-quantize then chooses otherwise for
            some layers.
    """
    is_tied = "output.weight" not in shapes
    num_values = 0  # attn_v tensors seen, which the rules count
    num_down = 0
    found = {}
    for name in file_order(shapes):
        shape = shapes[name]
        if not is_quantised(name, shape):
            found[name] = F32
            continue
        type_ = file_type.base
        if type_ in (F32, F16, BF16):
            found[name] = type_
            continue
        if name == "output.weight" or (is_tied and name == "token_embd.weight"):
            type_ = Q8_0 if type_ == Q8_0 or shape[-1] % type_.block else Q6_K
        elif "attn_v.weight" in name:
            type_ = _value_type(num_values, file_type, geometry)
            num_values += 1
        elif "attn_k.weight" in name:
            type_ = Q8_0 if geometry.num_experts == 8 else type_
        elif "attn_output.weight" in name:
            type_ = _output_type(file_type, geometry)
        elif "ffn_down" in name:
            layer = num_down
            if geometry.num_experts > 1:
                match = _LAYER.match(name)
                layer = int(match[1]) if match else layer
            type_ = _down_type(layer, file_type, geometry, has_importance)
            num_down += 1
        found[name] = fitting(type_, shape[-1])
    return found


def fitting(type_: GGMLType, width: int) -> GGMLType:
    """The type, or what stands in for it where rows of `width` values are no whole blocks."""
    if width % type_.block == 0:
        return type_
    smaller = _FALLBACKS.get(type_, type_)
    return F16 if width % smaller.block else smaller


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _value_type(layer: int, file_type: FileType, geometry: Geometry) -> GGMLType:
    name, type_ = file_type.name, file_type.base
    is_grouped = geometry.heads_per_kv_head >= 4
    if name == "Q2_K":
        type_ = Q4_K if is_grouped else Q3_K
    elif name == "Q3_K_M":
        type_ = Q5_K if layer < 2 else Q4_K
    elif name == "Q3_K_L" or (name in ("IQ4_NL", "IQ4_XS") and is_grouped):
        type_ = Q5_K
    elif name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, geometry.num_layers):
        type_ = Q6_K
    elif name == "Q4_K_S" and layer < 4:
        type_ = Q5_K
    if _is_70b(geometry) and type_ in (Q3_K, Q4_K):
        type_ = Q5_K
    return Q8_0 if geometry.num_experts == 8 else type_


def _is_70b(geometry: Geometry) -> bool:
    """What llama.cpp calls so: its two architectures with 80 layers."""
    is_grouped = geometry.num_heads != geometry.num_kv_heads
    return geometry.num_layers == 80 and (
        geometry.architecture == "qwen2" or (geometry.architecture == "llama" and is_grouped)
    )


def _output_type(file_type: FileType, geometry: Geometry) -> GGMLType:
    if geometry.num_experts == 8:
        return Q5_K if file_type.name in _EIGHT_EXPERTS_OUTPUT else file_type.base
    better = {"Q2_K": Q3_K, "Q3_K_M": Q4_K, "Q3_K_L": Q5_K}
    return better.get(file_type.name, file_type.base)


def _down_type(
    layer: int, file_type: FileType, geometry: Geometry, has_importance: bool
) -> GGMLType:
    name, layers = file_type.name, geometry.num_layers
    is_early = layer < layers // 8
    if name == "Q2_K":
        return Q3_K
    if name == "Q3_K_M":
        return Q5_K if layer < layers // 16 else Q4_K
    if name == "Q3_K_L":
        return Q5_K
    if name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, layers):
        return Q6_K
    if is_early and (name == "Q4_K_S" or (name in ("IQ4_NL", "IQ4_XS") and not has_importance)):
        return Q5_K
    if is_early and has_importance and name in ("Q4_0", "Q5_0"):
        return Q4_1 if name == "Q4_0" else Q5_1
    return file_type.base
