"""What weights take, computed from shapes: in full, packed, and as bitsandbytes keeps them."""

import math
from typing import Any

from ..kernels.packing import packed_shape
from .bits import BLOCK, quantised_layers
from .packed_config import PackedConfig

_SCALES_PER_BLOCK = 256  # scales of int4 blocks that share a scale of their own
_TABLES = 4 * 16 + 4 * 256  # float32 values of the 4-bit codes and of the 8-bit scales


def weight_bytes(model: Any, quantize: str | None = None, width: int = 2) -> int:
    """Bytes of a model's weights.

    Args:
        model: one of our models; without memory for its parameters is enough.
        quantize: None, "int4" or "int8" (packed, as on a CPU), "nf4" or "llm.int8".
        width: bytes of a number that is not quantised.
    """
    total = sum(parameter.numel() for parameter in model.parameters()) * width
    if quantize is None:
        return total
    if quantize in ("int4", "int8"):
        return total + _packing_saves(model, quantize, width)
    for layer in quantised_layers(model, quantize):
        size = layer.weight.numel()
        if quantize == "llm.int8":
            packed = size + 4 * layer.out_features
        else:
            blocks = -(-size // BLOCK)
            packed = -(-size // 2) + blocks + 4 * -(-blocks // _SCALES_PER_BLOCK) + _TABLES
        total += packed - size * width
    return total


def _packing_saves(model: Any, quantize: str, width: int) -> int:
    """Bytes by which a model changes when it is packed; below 0."""
    saved, seen = 0, set()
    for name, bits in PackedConfig(quantize).bits_of(model).items():
        weight = model.get_submodule(name).weight
        if id(weight) in seen:  # a head that is tied to the embeddings
            continue
        seen.add(id(weight))
        saved += math.prod(packed_shape(bits, *weight.shape)) - weight.numel() * width
    return saved
