"""Packed weights: integers of 4 or 8 bits in groups of 32 along the input, one scale per group.

A weight of 4 bits means `(q - 8) * scale` with q in 0..15, of 8 bits `q * scale` with q in
-127..127; the scale is float16. That takes 4.5 and 8.5 bits per weight.

Memory is a row of tiles, the same for every processor, so that files can be mapped. A tile holds
16 outputs x 32 inputs, so that one load of 16, 32 or 64 bytes brings four neighbouring inputs of
4, 8 or 16 outputs: what the integer instructions of NEON, AVX2 and AVX-512 multiply at once.

    32 bytes    float16 scale of each output
    int4        256 bytes: byte b of output r in step j (order j, r, b; 4 x 16 x 4) holds input
                8j + b in its low half and input 8j + 4 + b in its high half
    int8        512 bytes: byte b of output r in step j (order j, r, b; 8 x 16 x 4) is input 4j + b

Outputs are filled up to a multiple of 16 and inputs to one of 32 with weights of zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32  # inputs that share a scale
TILE_ROWS = 16  # outputs in a tile
SCALE_BYTES = 2 * TILE_ROWS  # float16
TILE_BYTES = {4: SCALE_BYTES + TILE_ROWS * GROUP // 2, 8: SCALE_BYTES + TILE_ROWS * GROUP}
_ZERO_POINT = {4: 8, 8: 0}
_BLOCK_WEIGHTS = 1 << 22  # of one block while packing and unpacking: 4 MB as int8


@dataclass(frozen=True)
class PackedWeight:
    """The weight of a linear layer, `(out_features, in_features)`, in tiles.

    Fields:
        data: uint8 (row tiles, groups, bytes of a tile), contiguous; may be mapped from a file.
        bits: 4 or 8.
        out_features, in_features: of the layer, without the padding.
    """

    data: Tensor
    bits: int
    out_features: int
    in_features: int

    def __post_init__(self) -> None:
        expected = packed_shape(self.bits, self.out_features, self.in_features)
        if tuple(self.data.shape) != expected or self.data.dtype != torch.uint8:
            raise ValueError(
                f"Packed weights of {self.out_features} x {self.in_features} in {self.bits} bits "
                f"have shape {tuple(self.data.shape)} and dtype {self.data.dtype}; expected "
                f"{expected} and torch.uint8. Pack them anew."
            )
        if not self.data.is_contiguous():
            raise ValueError(
                f"Packed weights have strides {self.data.stride()}; pass a contiguous tensor."
            )

    @staticmethod
    def empty(
        bits: int, out_features: int, in_features: int, device: torch.device | str = "cpu"
    ) -> "PackedWeight":
        """Room for a weight, to be filled by `pack_rows`."""
        shape = packed_shape(bits, out_features, in_features)
        data = torch.empty(shape, dtype=torch.uint8, device=device)
        return PackedWeight(data, bits, out_features, in_features)

    @property
    def num_groups(self) -> int:
        """Groups of 32 inputs, the padded one included."""
        return self.data.shape[1]


def packed_shape(bits: int, out_features: int, in_features: int) -> tuple[int, int, int]:
    """The shape of the bytes of a packed weight.

    Raises:
        ValueError: another number of bits than 4 or 8, or a width below 1.
    """
    if bits not in TILE_BYTES:
        raise ValueError(f"Packed weights have 4 or 8 bits, not {bits!r}.")
    if out_features < 1 or in_features < 1:
        raise ValueError(
            f"A packed weight needs two widths above 0, not {out_features} x {in_features}."
        )
    return -(-out_features // TILE_ROWS), -(-in_features // GROUP), TILE_BYTES[bits]


def pack(q: Tensor, scales: Tensor, bits: int) -> PackedWeight:
    """Pack a whole weight.

    Args:
        q: integers (out_features, in_features): 0..15 for 4 bits, -127..127 for 8.
        scales: (out_features, groups), stored as float16; the last group may be narrower than 32.
        bits: 4 or 8.
    """
    packed = PackedWeight.empty(bits, q.shape[0], q.shape[1], q.device)
    pack_rows(packed, 0, q, scales)
    return packed


def pack_rows(packed: PackedWeight, start: int, q: Tensor, scales: Tensor) -> None:
    """Pack the outputs from `start` on, so that a large weight can be quantised in blocks.

    Args:
        start: first output; a multiple of 16.
        q: integers (rows, in_features), see `pack`; `rows` is a multiple of 16, except at the end.
        scales: (rows, groups).

    Raises:
        ValueError: shapes do not fit, or the rows begin or end inside a tile.
    """
    rows, width = q.shape
    expected = (rows, packed.num_groups)
    if width != packed.in_features or tuple(scales.shape) != expected:
        raise ValueError(
            f"q has shape {tuple(q.shape)} and scales {tuple(scales.shape)}; expected "
            f"({rows}, {packed.in_features}) and {expected}: one scale per 32 inputs."
        )
    end = start + rows
    if start % TILE_ROWS or end > packed.out_features:
        raise ValueError(
            f"Outputs {start} to {end} do not fit {packed.out_features} in tiles of 16."
        )
    if end % TILE_ROWS and end != packed.out_features:
        raise ValueError(f"Outputs {start} to {end} end inside a tile of 16 outputs.")
    step = _rows_per_block(packed)
    for first in range(0, rows, step):
        block = slice(first, first + step)
        tiles = _pack_block(q[block], scales[block], packed.bits)
        first_tile = (start + first) // TILE_ROWS
        packed.data[first_tile : first_tile + tiles.shape[0]] = tiles


def unpack(packed: PackedWeight) -> tuple[Tensor, Tensor]:
    """The integers and scales of a packed weight: what `pack` was given.

    Returns:
        q: (out_features, in_features), uint8 for 4 bits and int8 for 8.
        scales: float16 (out_features, groups).
    """
    dtype = torch.uint8 if packed.bits == 4 else torch.int8
    device = packed.data.device
    q = torch.empty(packed.out_features, packed.in_features, dtype=dtype, device=device)
    scales = torch.empty(packed.out_features, packed.num_groups, dtype=torch.float16, device=device)
    step = _rows_per_block(packed)
    for first in range(0, packed.out_features, step):
        end = min(first + step, packed.out_features)
        q[first:end], scales[first:end] = unpack_rows(packed, first, end)
    return q, scales


def unpack_rows(packed: PackedWeight, start: int, end: int) -> tuple[Tensor, Tensor]:
    """The integers and scales of the outputs `start` to `end` (exclusive); see `unpack`."""
    first_tile, last_tile = start // TILE_ROWS, -(-end // TILE_ROWS)
    tiles = packed.data[first_tile:last_tile]
    num_tiles, num_groups, _ = tiles.shape
    scales = tiles[:, :, :SCALE_BYTES].contiguous().view(torch.float16)  # (tiles, groups, 16)
    scales = scales.transpose(1, 2).reshape(num_tiles * TILE_ROWS, num_groups)
    body = tiles[:, :, SCALE_BYTES:]
    if packed.bits == 4:
        body = body.unflatten(2, (4, TILE_ROWS, 4))  # (tiles, groups, j, r, b)
        body = torch.stack([body & 15, body >> 4], dim=4)  # (tiles, groups, j, r, half, b)
        q = body.permute(0, 3, 1, 2, 4, 5)  # (tiles, r, groups, j, half, b)
    else:
        q = body.unflatten(2, (8, TILE_ROWS, 4)).permute(0, 3, 1, 2, 4)  # (tiles, r, groups, j, b)
    q = q.reshape(num_tiles * TILE_ROWS, num_groups * GROUP)
    if packed.bits == 8:
        q = q.view(torch.int8)
    rows = slice(start - first_tile * TILE_ROWS, end - first_tile * TILE_ROWS)
    return q[rows, : packed.in_features], scales[rows]


def dequantize(
    packed: PackedWeight, start: int = 0, end: int | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weights (rows, in_features) of the outputs `start` to `end` (exclusive; None: all)."""
    end = packed.out_features if end is None else end
    result = torch.empty(end - start, packed.in_features, dtype=dtype, device=packed.data.device)
    step = _rows_per_block(packed)
    for first in range(start, end, step):
        last = min(first + step, end)
        result[first - start : last - start] = _dequantize_block(packed, first, last)
    return result


def _dequantize_block(packed: PackedWeight, start: int, end: int) -> Tensor:
    q, scales = unpack_rows(packed, start, end)
    values = q.to(torch.float32)
    values -= _ZERO_POINT[packed.bits]
    padding = packed.num_groups * GROUP - packed.in_features
    if padding:
        values = torch.nn.functional.pad(values, (0, padding))
    values = values.unflatten(1, (-1, GROUP)) * scales.to(torch.float32).unsqueeze(2)
    return values.flatten(1)[:, : packed.in_features]


def _pack_block(q: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Tiles (row tiles, groups, bytes) of some outputs."""
    rows, width = q.shape
    num_tiles, num_groups, num_bytes = packed_shape(bits, rows, width)
    padded = torch.full(
        (num_tiles * TILE_ROWS, num_groups * GROUP),
        _ZERO_POINT[bits],
        dtype=torch.int8,
        device=q.device,
    )
    padded[:rows, :width] = q
    padded_scales = torch.zeros(
        num_tiles * TILE_ROWS, num_groups, dtype=torch.float16, device=q.device
    )
    padded_scales[:rows] = scales
    tiles = torch.empty(num_tiles, num_groups, num_bytes, dtype=torch.uint8, device=q.device)
    by_tile = padded_scales.view(num_tiles, TILE_ROWS, num_groups).transpose(1, 2)
    tiles[:, :, :SCALE_BYTES] = by_tile.contiguous().view(torch.uint8)
    quads = padded.view(torch.uint8).view(num_tiles, TILE_ROWS, num_groups, 8, 4)
    quads = quads.permute(0, 2, 3, 1, 4)  # (tiles, groups, steps of 4 inputs, r, b)
    if bits == 4:
        quads = quads[:, :, 0::2] | quads[:, :, 1::2] << 4  # (tiles, groups, j, r, b)
    tiles[:, :, SCALE_BYTES:] = quads.flatten(2)
    return tiles


def _rows_per_block(packed: PackedWeight) -> int:
    """How many outputs are packed or unpacked at a time; a multiple of 16."""
    return max(1, _BLOCK_WEIGHTS // (packed.in_features * TILE_ROWS)) * TILE_ROWS
