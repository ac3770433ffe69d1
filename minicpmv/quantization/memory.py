"""What weights take, computed from shapes: in full, and as bitsandbytes keeps them."""

from typing import Any

from .bits import BLOCK, quantised_layers

_SCALES_PER_BLOCK = 256  # scales of int4 blocks that share a scale of their own
_TABLES = 4 * 16 + 4 * 256  # float32 values of the 4-bit codes and of the 8-bit scales


def weight_bytes(model: Any, quantize: str | None = None, width: int = 2) -> int:
    """Bytes of a model's weights.

    Args:
        model: one of our models; without memory for its parameters is enough.
        quantize: None, "int4" or "int8", as in `load`.
        width: bytes of a number that is not quantised.
    """
    total = sum(parameter.numel() for parameter in model.parameters()) * width
    if quantize is None:
        return total
    for layer in quantised_layers(model, quantize):
        size = layer.weight.numel()
        if quantize == "int8":
            packed = size + 4 * layer.out_features
        else:
            blocks = -(-size // BLOCK)
            packed = -(-size // 2) + blocks + 4 * -(-blocks // _SCALES_PER_BLOCK) + _TABLES
        total += packed - size * width
    return total
