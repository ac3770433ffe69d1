"""Positions of patches: buckets of a learned table, that table resized, and sines and cosines.

Everything here is arithmetic on tensors: no value is read back by the host, so that the vision side
compiles as one graph, can be exported and can be captured.
"""

import math

import torch


def sincos_positions(positions: torch.Tensor, channels: int) -> torch.Tensor:
    """Sine-cosine code of integer positions: sines of all frequencies, then cosines.

    Args:
        positions: any shape, patch indices along one axis.
        channels: even.

    Returns:
        (*positions.shape, channels), float32.
    """
    num_frequencies = channels // 2
    exponent = torch.arange(num_frequencies, device=positions.device, dtype=torch.float32)
    frequency = 1.0 / torch.pow(10000.0, exponent / num_frequencies)
    angle = positions.to(torch.float32)[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def square_positions(num_places: int, channels: int) -> torch.Tensor:
    """Code of a square grid, row by row: (num_places, channels); what released tables hold."""
    side = math.isqrt(num_places)
    index = torch.arange(num_places)
    codes = sincos_positions(torch.arange(side), channels // 2)
    return torch.cat([codes[index % side], codes[index // side]], dim=-1)


def grid_positions(
    target_sizes: torch.Tensor, num_rows: int, channels: int, dtype: torch.dtype
) -> torch.Tensor:
    """Code of the places in the grid of each slice: half of the channels say the column, half the
    row.

    Args:
        target_sizes: (num_slices, 2), height and width of each slice's grid.
        num_rows: places per slice; those after a slice's own are meaningless.

    Returns:
        (num_slices, num_rows, channels), computed in float32.
    """
    index = torch.arange(num_rows, device=target_sizes.device)
    codes = sincos_positions(index, channels // 2).to(dtype)  # once per coordinate
    width = target_sizes[:, 1:]
    places = torch.stack([index % width, index // width], dim=-1)  # (num_slices, num_rows, 2)
    return codes[places].flatten(-2)


def position_buckets(
    num_patches: int | torch.Tensor, table_side: int, index: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows of the position table for the patches along one axis of a slice.

    Patch i of n lies at i / n of the slice; its bucket is the number of boundaries k / table_side,
    k >= 1, at or below it. Several places fall on a boundary, where the last bit decides. The
    released models place patches with `torch.arange(0, 1, 1 / n)`, which on their processors goes
    in steps of eight numbers: the first of every eight is a multiple of the float32 1 / n, rounded,
    and the others are that number plus multiples, rounded again. Other processors and compilers
    round otherwise, so the float32 arithmetic is done here in whole numbers, which are the same
    everywhere.

    Args:
        num_patches: n, to be broadcast with `index`; at most 2 ** 20.
        index: patches i, by default 0 to n - 1 of one n.

    Returns:
        As `index`; 0 to table_side - 1 for i < n.
    """
    if index is None:
        index = torch.arange(num_patches)  # type: ignore[arg-type]
    count = torch.as_tensor(num_patches, device=index.device)
    exponent = _bit_length(count, 20) - 1  # floor(log2 n)
    # Places are in units of 2 ** -(24 + exponent); no 1 / n is halfway between two float32.
    step = (2 * 2 ** (24 + exponent) + count) // (2 * count)
    lane = index % 8
    first = _round_to_float32((index - lane) * step)
    place = _round_to_float32(first + lane * step)
    boundaries = torch.tensor(bucket_boundaries(table_side), device=index.device)
    reached = (place * 2**16)[..., None] >= boundaries * (2**exponent)[..., None]
    return reached.sum(dim=-1)


def bucket_boundaries(table_side: int) -> list[int]:
    """k / table_side for k from 1 on, as `torch.arange` rounds them: float32 in units of
    2 ** -40."""
    step = 1 / table_side
    boundaries = []
    for index in range(table_side - 1):
        lane = index % 8
        value = _as_float32(_as_float32(step + (index - lane) * step) + lane * step)
        boundaries.append(int(value * 2**40))
    return boundaries


def _as_float32(value: float) -> float:
    """A number between 2 ** -16 and 2, rounded to float32; a tie to the even one."""
    unit = 2.0**-39
    while value / unit >= 2**24:
        unit *= 2
    return round(value / unit) * unit


def resize_table(
    table: torch.Tensor, target_sizes: torch.Tensor, num_rows: int, *, antialias: bool
) -> torch.Tensor:
    """The position table of a square grid, brought to the grid of each slice by bicubic
    interpolation, in float32; unchanged where the grid is its own.

    As `torch.nn.functional.interpolate` does it, but for grids whose sizes only the device knows:
    every place is a weighted sum over the table. The two forms differ even where a grid grows:
    PyTorch's antialiased kernel has another coefficient.

    Args:
        table: (side * side, hidden), row by row.
        target_sizes: (num_slices, 2), height and width of each slice's grid.

    Returns:
        (num_slices, num_rows, hidden), zeros after a slice's own places.
    """
    side = math.isqrt(len(table))
    target_sizes = target_sizes.to(table.device)
    height, width = target_sizes[:, :1], target_sizes[:, 1:]
    index = torch.arange(num_rows, device=table.device)
    weights_of = _antialiased_weights if antialias else _bicubic_weights
    rows = weights_of(index // width, height, side)  # (num_slices, num_rows, side)
    columns = weights_of(index % width, width, side)
    weights = (rows[..., :, None] * columns[..., None, :]).flatten(-2)
    is_place = (index < height * width)[..., None]
    weights = weights.masked_fill(~is_place, 0.0)  # (num_slices, num_rows, side * side)
    with torch.autocast(table.device.type, enabled=False):
        return (weights @ table.float()).to(table.dtype)


def _antialiased_weights(place: torch.Tensor, size: torch.Tensor, side: int) -> torch.Tensor:
    """How much each of `side` numbers gives to `place` of `size` resampled ones: (..., side)."""
    source = torch.arange(side, device=place.device)
    # Where a grid shrinks, the kernel is as much wider.
    stretch = (side / size.float()).clamp(min=1.0)[..., None]
    weights = _cubic(_distance(source, place, size, side) / stretch, -0.5)
    return weights / weights.sum(dim=-1, keepdim=True)


def _bicubic_weights(place: torch.Tensor, size: torch.Tensor, side: int) -> torch.Tensor:
    """As `_antialiased_weights`, without widening; taps outside fall on the outermost numbers."""
    first = ((2 * place + 1) * side - size) // (2 * size)
    taps = first[..., None] + torch.arange(-1, 3, device=place.device)  # (..., 4)
    weights = _cubic(_distance(taps, place, size, side), -0.75)
    source = torch.arange(side, device=place.device)
    hits = taps.clamp(0, side - 1)[..., None] == source  # (..., 4, side)
    return (weights[..., None] * hits).sum(dim=-2)


def _distance(
    source: torch.Tensor, place: torch.Tensor, size: torch.Tensor, side: int
) -> torch.Tensor:
    """From the middle of `place` of `size` to that of `source` of `side`, in steps of the latter;
    rounded once."""
    place, size = place[..., None], size[..., None]
    return ((2 * source + 1) * size - (2 * place + 1) * side) / (2 * size)


def _cubic(distance: torch.Tensor, coefficient: float) -> torch.Tensor:
    """Keys' cubic convolution kernel; zero from a distance of 2 on."""
    x, a = distance.abs(), coefficient
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _bit_length(number: torch.Tensor, most: int) -> torch.Tensor:
    """Bits of whole numbers from 0 to 2 ** most - 1."""
    powers = 2 ** torch.arange(most, device=number.device)
    return (number[..., None] >= powers).sum(dim=-1)


def _round_to_float32(number: torch.Tensor) -> torch.Tensor:
    """Whole numbers of at most 48 bits to 24 significant bits, a tie to the even one."""
    unit = 2 ** (_bit_length(number, 48) - 24).clamp(min=0)
    quotient, rest = number // unit, number % unit
    goes_up = (2 * rest > unit) | ((2 * rest == unit) & (quotient % 2 == 1))
    return (quotient + goes_up) * unit


__all__ = [
    "grid_positions",
    "position_buckets",
    "resize_table",
    "sincos_positions",
    "square_positions",
]
