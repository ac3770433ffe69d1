"""The layers of a plain decoder over a few tokens in one call, for `engine.few_tokens`.

Called one by one from Python, the functions of a small model take less time than their calls, and
each gives the interpreter's lock away and asks for it again.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .build import SUFFIXES, Library

MOST_TOKENS = 12  # of the products of a few rows
_DTYPES = {
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
}
_ARGUMENTS = (*[ctypes.c_void_p] * 8, ctypes.c_int)


class Shape(NamedTuple):
    """Of a decoder, in numbers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int

    @property
    def is_taken(self) -> bool:
        """Whether the functions of all parts take it."""
        return (
            self.head_dim % 8 == 0
            and self.head_dim <= 256
            and self.heads % self.kv_heads == 0
            and self.hidden % 4 == self.inner % 4 == 0
        )


class Rows(NamedTuple):
    """Tokens that attend by themselves, as `ops.paged_attention` takes them."""

    tables: Tensor
    lengths: Tensor


class Piece(NamedTuple):
    """Tokens that follow each other in one sequence: the first of them in the batch, how many, and
    tokens of the sequence before them; the first of its blocks where these follow each other, else
    the address of their int64 numbers."""

    begin: int
    length: int
    start: int
    first_block: int
    blocks: int


class Factors(NamedTuple):
    """Of the scores of attention, of what layers add, and what norms add to the mean square: those
    of the layers, and the one after them."""

    scaling: float
    residual: float
    eps: float
    last_eps: float


class Head(NamedTuple):
    """What follows the last layer: the weight of the norm; weight (vocabulary, hidden) of the
    product, its bias, and what `products.packed_weight` gives for it. All contiguous."""

    norm: Tensor
    weight: Tensor
    bias: Tensor | None
    packed: Tensor | None

    @property
    def is_taken(self) -> bool:
        return len(self.weight) % 4 == 0


def pointers(tensors: Sequence[Tensor | None]) -> Any:
    """Of each layer: weights of the norms before attention and before the MLP; weight, bias and
    what `products.packed_weight` gives or None, of `q k v o gate up down`; keys and values."""
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def compute(
    library: Library,
    hidden: Tensor,
    shape: Shape,
    layers: Any,
    slots: Tensor,
    turns: tuple[Tensor, Tensor],
    rows: Rows | None,
    pieces: Sequence[Piece],
    factors: Factors,
    ends: tuple[Tensor, Rows] | None = None,
    head: Head | None = None,
) -> Tensor | None:
    """What the last layer, or the head, gives for some tokens; keys and values of all are written.

    Args:
        hidden: (tokens, hidden), contiguous, at most `MOST_TOKENS`; it is written over.
        layers: from `pointers`; of contiguous tensors in the dtype of `hidden`.
        slots: int64 (tokens,), as of `ops.rotate_and_write`.
        turns: cosines and sines, (tokens, head_dim), contiguous.
        rows: the first tokens.
        pieces: the others.
        ends: int64 (n,), the tokens that are wanted, and these as rows; None for all.

    Returns:
        (tokens, hidden), or (n, hidden); with a head float32 (tokens or n, vocabulary). None where
        memory is short or the dtypes are others.
    """
    if (hidden.dtype, turns[0].dtype) not in _DTYPES:
        return None
    name = f"layers_{SUFFIXES[hidden.dtype]}_{SUFFIXES[turns[0].dtype]}"
    function = library.function(name, *_ARGUMENTS)
    function.restype = ctypes.c_int
    sizes = (ctypes.c_int64 * 7)(shape.layers, len(hidden), *shape[1:])
    listed = [number for piece in pieces for number in piece]
    places = (ctypes.c_int64 * max(len(listed), 1))(*listed)
    chosen = 0 if ends is None else ends[0].data_ptr()
    batch = (ctypes.c_int64 * 12)(
        slots.data_ptr(), *_rows(rows), ctypes.addressof(places), len(pieces),
        chosen, *_rows(None if ends is None else ends[1]),
    )  # fmt: skip
    num_wanted = len(hidden) if ends is None else len(ends[0])
    result, last = hidden[:num_wanted], None
    if head is not None:
        result = torch.empty((num_wanted, len(head.weight)), dtype=torch.float32)
        last = (ctypes.c_void_p * 6)(
            *(None if tensor is None else tensor.data_ptr() for tensor in head),
            len(head.weight), result.data_ptr(),
        )  # fmt: skip
    failed = function(
        hidden.data_ptr(), layers, last, sizes, batch, turns[0].data_ptr(), turns[1].data_ptr(),
        (ctypes.c_float * 4)(*factors), torch.get_num_threads(),
    )  # fmt: skip
    return None if failed else result


def _rows(rows: Rows | None) -> tuple[int, int, int, int]:
    if rows is None:
        return 0, 0, 0, 0
    tables, lengths = rows
    return tables.data_ptr(), lengths.data_ptr(), len(tables), tables.shape[1]
