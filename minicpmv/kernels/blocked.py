"""Products of many rows with packed weights through torch's own products, a block at a time.

Where a processor multiplies matrices in hardware (AMX), torch's library is faster for many rows
than a kernel of vectors. Blocks of weights are made so small that they stay in the cache:

    int8        one scale per output instead of one per group, and one per row of activations
    bfloat16    weights and activations rounded to bfloat16

Against weights of 4 bits the error of both is small: weights move by a sixth of what 4 bits moved
them. For weights of 8 bits int8 adds about as much error as these have (logits of nano: 3.5 % of
their standard deviation in place of 2.0), and is twice as fast. One scale for a row of activations
is fine unless a few of them tower above the others. A few such rows, often the first token, are
left to the packed kernel; where there are many, bfloat16 is taken.
"""

import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .build import SUFFIXES, Library
from .packing import GROUP, TILE_ROWS, PackedWeight

MIN_ROWS = 48  # fewer rows are bound by reading the weights
MAX_CREST = 12.0  # largest activation over the root of the mean square, for int8
_MOST_EXACT = 8  # one row in so many may be left to the packed kernel
_BLOCK_WEIGHTS = 1 << 21  # of one block
_MIN_OUTPUTS = 128  # of one block
_POINTER, _INTEGER, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


def best_way(library: Library, packed: PackedWeight, num_rows: int) -> str | None:
    """ "int8" or "bfloat16" where that is the fastest product here; None for the packed kernel."""
    if num_rows < MIN_ROWS or not can_widen(library):
        return None
    processor = torch.cpu.get_capabilities()
    if processor.get("amx_int8") and int8_is_exact():
        return "int8"
    return "bfloat16" if processor.get("amx_bf16") else None


def can_widen(library: Library) -> bool:
    """Whether the library makes blocks of weights."""
    return bool(_function(library, "packed_blocks", ())())


@cache
def int8_is_exact() -> bool:
    """Whether torch multiplies bytes exactly here; without VNNI its sums saturate in 16 bits."""
    left = torch.full((64, 64), 127, dtype=torch.int8)
    left[:, ::2] = -127
    right = torch.full((64, 64), -127, dtype=torch.int8)
    right[0::4] = 127
    for a, b in ((left, right), (right, right), (left, left)):
        if not torch.equal(torch._int_mm(a, b), a.to(torch.int32) @ b.to(torch.int32)):
            return False
    return True


def blocked_linear(
    library: Library,
    x: Tensor,
    packed: PackedWeight,
    bias: Tensor | None,
    way: str,
    kernel: Callable[[Tensor], Tensor],
) -> Tensor:
    """The linear layer through `way`, "int8" or "bfloat16".

    Args:
        x: (rows, in_features), float32 or bfloat16, its rows contiguous.
        bias: float32 (out_features,).
        kernel: the same layer by the packed kernel, for rows that int8 does not suit.
    """
    threads = torch.get_num_threads()
    if way == "int8":
        values, scales, crests = _round_rows(library, x, threads)
        towering = (crests > MAX_CREST).nonzero().flatten()
        if len(towering) * _MOST_EXACT <= x.shape[0]:
            result = _int8_linear(library, x.dtype, values, scales, packed, bias, threads)
            if len(towering):
                result[towering] = kernel(x[towering])
            return result
    return _bfloat16_linear(library, x, packed, bias, threads)


def _int8_linear(
    library: Library,
    dtype: torch.dtype,
    values: Tensor,
    x_scales: Tensor,
    packed: PackedWeight,
    bias: Tensor | None,
    threads: int,
) -> Tensor:
    widen = _function(
        library, "packed_widen_i8", (_POINTER, _INT, *[_INTEGER] * 2, *[_POINTER] * 2, _INT)
    )
    rescale = _function(
        library,
        f"rescale_{SUFFIXES[dtype]}",
        (_POINTER, *[_INTEGER] * 2, *[_POINTER] * 4, *[_INTEGER] * 2, _INT),
    )
    rows = values.shape[0]
    result = torch.empty(rows, packed.out_features, dtype=dtype)
    for tiles, first, width in _blocks(packed):
        columns = tiles.shape[0] * TILE_ROWS
        block = torch.empty(packed.num_groups * GROUP, columns, dtype=torch.int8)
        scales = torch.empty(columns, dtype=torch.float32)
        widen(
            tiles.data_ptr(), packed.bits, tiles.shape[0], packed.num_groups, block.data_ptr(),
            scales.data_ptr(), threads,
        )  # fmt: skip
        sums = torch._int_mm(values, block)  # (rows, columns)
        part = None if bias is None else bias[first:].data_ptr()
        rescale(
            sums.data_ptr(), rows, columns, x_scales.data_ptr(), scales.data_ptr(), part,
            result[:, first:].data_ptr(), result.stride(0), width, threads,
        )  # fmt: skip
    return result


def _bfloat16_linear(
    library: Library, x: Tensor, packed: PackedWeight, bias: Tensor | None, threads: int
) -> Tensor:
    widen = _function(
        library, "packed_widen_bf16", (_POINTER, _INT, *[_INTEGER] * 2, _POINTER, _INT)
    )
    padding = packed.num_groups * GROUP - packed.in_features
    narrow = torch.nn.functional.pad(x.to(torch.bfloat16), (0, padding))
    result = torch.empty(x.shape[0], packed.out_features, dtype=x.dtype)
    for tiles, first, width in _blocks(packed):
        columns = tiles.shape[0] * TILE_ROWS
        block = torch.empty(packed.num_groups * GROUP, columns, dtype=torch.bfloat16)
        widen(
            tiles.data_ptr(), packed.bits, tiles.shape[0], packed.num_groups, block.data_ptr(),
            threads,
        )  # fmt: skip
        product = (narrow @ block)[:, :width]
        part = result[:, first : first + width]
        if bias is None:
            part.copy_(product)
        else:
            torch.add(product, bias[first : first + width], out=part)
    return result


def _round_rows(library: Library, x: Tensor, threads: int) -> tuple[Tensor, Tensor, Tensor]:
    """int8 (rows, in_features filled up), the scale of each row, and its largest over its mean."""
    rows, width = x.shape
    values = torch.empty(rows, -(-width // GROUP) * GROUP, dtype=torch.int8)
    scales, crests = torch.empty(2, rows, dtype=torch.float32)
    function = _function(
        library,
        f"round_rows_{SUFFIXES[x.dtype]}",
        (_POINTER, *[_INTEGER] * 3, *[_POINTER] * 3, _INT),
    )
    function(
        x.data_ptr(), x.stride(0), rows, width, values.data_ptr(), scales.data_ptr(),
        crests.data_ptr(), threads,
    )  # fmt: skip
    return values, scales, crests


def _blocks(packed: PackedWeight) -> Iterator[tuple[Tensor, int, int]]:
    """Rows of tiles, their first output, and how many outputs are real."""
    outputs = max(_MIN_OUTPUTS, _BLOCK_WEIGHTS // (packed.num_groups * GROUP))
    step = outputs // TILE_ROWS
    for start in range(0, packed.data.shape[0], step):
        tiles = packed.data[start : start + step]
        first = start * TILE_ROWS
        yield tiles, first, min(tiles.shape[0] * TILE_ROWS, packed.out_features - first)


@cache
def _function(library: Library, name: str, arguments: tuple[Any, ...]) -> Any:
    function = library.function(name, *arguments)
    if name == "packed_blocks":
        function.restype = _INT
    return function
