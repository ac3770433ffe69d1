"""Small numbers in words of 32 bits, as GPTQ, AWQ and compressed-tensors store them."""

import torch
from torch import Tensor

WORD = 32


def pack_words(codes: Tensor, bits: int, dim: int) -> Tensor:
    """Numbers of 0 to 2**bits - 1 along `dim`, the first of a word in its lowest bits.

    Args:
        codes: (rows, columns), integers; zeros fill up the last word.

    Returns:
        int32, with ceil(size * bits / 32) words along `dim`.
    """
    per_word = WORD // bits
    rows = codes.transpose(dim, -1).to(torch.int32)
    rows = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % per_word))
    places = torch.arange(0, WORD, bits, dtype=torch.int32)
    # No two numbers share a bit, so their sum is their union; int32 wraps at the sign bit.
    words = (rows.unflatten(-1, (-1, per_word)) << places).sum(-1, dtype=torch.int32)
    return words.transpose(dim, -1).contiguous()


def unpack_words(words: Tensor, bits: int, dim: int) -> Tensor:
    """The way back: int32 numbers, with 32 / bits of them along `dim` for each word."""
    places = torch.arange(0, WORD, bits, dtype=torch.int32)
    rows = (words.transpose(dim, -1)[..., None] >> places) & (2**bits - 1)
    return rows.flatten(-2).transpose(dim, -1)
