"""Single rows of a packed weight: what an embedding looks up."""

import torch
from torch import Tensor

from ..kernels.packing import SCALE_BYTES, TILE_ROWS, PackedWeight

_ROWS = 1024  # unpacked at a time


def dequantize_rows(
    packed: PackedWeight, rows: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weights of some outputs.

    Args:
        rows: (n,) indices of outputs, in any order, repeated or not.

    Returns:
        (n, in_features)
    """
    result = torch.empty(len(rows), packed.in_features, dtype=dtype, device=packed.data.device)
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        result[start : start + _ROWS] = _unpacked(packed, part)
    return result


def _unpacked(packed: PackedWeight, rows: Tensor) -> Tensor:
    tile, row = rows // TILE_ROWS, rows % TILE_ROWS
    scales = packed.data[:, :, :SCALE_BYTES].unflatten(2, (TILE_ROWS, 2))[tile, :, row]
    scales = scales.contiguous().view(torch.float16).float()  # (n, groups, 1)
    body = packed.data[:, :, SCALE_BYTES:].unflatten(
        2, (-1, TILE_ROWS, 4)
    )  # (tiles, groups, j, r, b)
    codes = body[tile, :, :, row]  # (n, groups, j, b)
    if packed.bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], dim=3)  # (n, groups, j, half, b)
        values = codes.flatten(2).float() - 8
    else:
        values = codes.contiguous().view(torch.int8).flatten(2).float()
    return (values * scales).flatten(1)[:, : packed.in_features]
