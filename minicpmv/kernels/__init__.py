"""Compiled CPU kernels, and the same in torch.

    packing.py  weights of 4 and 8 bits in groups: their layout in memory and on disk
    linear.py   products of activations with packed weights

Imports nothing of ours.
"""

from .linear import packed_linear
from .packing import PackedWeight, dequantize, pack, pack_rows, unpack

__all__ = ["PackedWeight", "dequantize", "pack", "pack_rows", "packed_linear", "unpack"]
