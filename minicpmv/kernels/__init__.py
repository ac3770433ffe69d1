"""Compiled CPU kernels, and the same in torch.

    packing.py    weights of 4 and 8 bits in groups: their layout in memory and on disk
    linear.py     products of activations with packed weights
    blocked.py    the same for many rows on processors that multiply matrices in hardware
    products.py   products with plain weights
    dense.py      attention of many tokens over all keys of their sequence, or those before
    layers.py     all layers of a plain decoder over a few tokens, in one call
    ops.py        attention over blocks of keys and values, normalisation, activations
    cuda.py       the same on CUDA, by Triton
    random.py     random numbers of torch's generator, of which few are wanted
    build.py      compiles the *.cpp beside it, once, and loads the result
    openmp.py     with how many threads the calling thread computes
    processor.py  the processor's name and instruction sets
    check.py      compares a library with torch before it is used

Imports nothing of ours.
"""

from .build import Library, built, disabled, library, why_not
from .dense import attention_of_tokens, causal_attention, dense_attention
from .linear import packed_linear
from .ops import gelu_tanh, paged_attention, rms_norm, rotate_and_write, silu_and_mul
from .packing import PackedWeight, dequantize, pack, pack_rows, unpack
from .products import dense_linear
from .random import random_bits

__all__ = [
    "Library",
    "PackedWeight",
    "attention_of_tokens",
    "built",
    "causal_attention",
    "dense_attention",
    "dense_linear",
    "dequantize",
    "disabled",
    "gelu_tanh",
    "library",
    "pack",
    "pack_rows",
    "packed_linear",
    "paged_attention",
    "random_bits",
    "rms_norm",
    "rotate_and_write",
    "silu_and_mul",
    "unpack",
    "why_not",
]
