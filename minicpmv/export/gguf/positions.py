"""The table of patch positions, rewritten for a program that looks it up in one fixed way.

llama.cpp places patch (row, col) of a slice of rows x cols patches at row floor(70 row / rows)
and column floor(70 col / cols) of a table of 70 x 70, whatever the model. The release with such a
table that it is looked up in the same way is 2.6. Two differ:

- nano has a table of 56 x 56 and looks it up by 56ths;
- 2.5 numbers all patches of a slice along one line, by 70ths, and reads the table's first 70 rows.

Each slice shape wants certain numbers in certain places of the 70 x 70. Shapes contradict each
other, so the most frequent gets its wish first: the square of the slice resolution, which is exact,
then the shapes of slices by how often pictures are cut into them. Places that no shape asks for are
filled by proportion.
"""

from collections import Counter

import torch

from ...model.positions import position_buckets
from ...processing.llama_cpp import plan_like_llama_cpp

SIDE = 70
# Sides of pictures, in slice resolutions, from which the shapes of slices are counted: one fixed
# spread, a factor of 2 ** (1 / 4) apart.
_SIDES = [2 ** (step / 4) for step in range(-4, 13)]
_Shape = tuple[int, int]  # rows, cols of a slice in patches


def placed_rows(
    positions: str, side: int, scale_resolution: int, patch_size: int
) -> torch.Tensor | None:
    """For every place of the 70 x 70 table, the row of the model's own table that goes there.

    Args:
        positions: "grid" or "row", as in the config of the tower.
        side: of the model's table.

    Returns:
        (4900,), or None where the table stays as it is.
    """
    if positions == "grid" and side == SIDE:
        return None
    rows = torch.full((SIDE * SIDE,), -1)
    for shape in _shapes(scale_resolution, patch_size):
        places, wanted = _places(shape), _wanted(shape, positions, side)
        free = rows[places] < 0
        rows[places[free]] = wanted[free]
    free = rows < 0
    rows[free] = _by_proportion(positions, side, scale_resolution // patch_size)[free]
    return rows


def _shapes(scale_resolution: int, patch_size: int) -> list[_Shape]:
    """Shapes of slices, the square first, then the most frequent."""
    side = scale_resolution // patch_size
    counts: Counter[_Shape] = Counter()
    sides = [max(1, round(part * scale_resolution)) for part in _SIDES]
    for height in sides:
        for width in sides:
            cut = plan_like_llama_cpp(
                height, width, scale_resolution=scale_resolution, patch_size=patch_size
            )
            counts.update(cut.plan.target_sizes(patch_size))
    del counts[(side, side)]
    return [(side, side), *(shape for shape, _ in counts.most_common())]


def _places(shape: _Shape) -> torch.Tensor:
    """Where llama.cpp looks for each patch, row by row."""
    rows, cols = (torch.arange(size) * SIDE // size for size in shape)
    return (rows[:, None] * SIDE + cols).flatten()


def _wanted(shape: _Shape, positions: str, side: int) -> torch.Tensor:
    """The row of the model's table for each patch, row by row."""
    if positions == "row":
        return position_buckets(shape[0] * shape[1], side)
    rows, cols = (position_buckets(size, side) for size in shape)
    return (rows[:, None] * side + cols).flatten()


def _by_proportion(positions: str, side: int, patches: int) -> torch.Tensor:
    """For places that no counted shape asks for: what is there in a slice as fine as the table."""
    index = torch.arange(SIDE)
    rows, cols = index.repeat_interleave(SIDE), index.repeat(SIDE)
    if positions == "row":
        line = (rows * patches // SIDE) * patches + cols * patches // SIDE
        return line * side // (patches * patches)
    return (rows * side // SIDE) * side + cols * side // SIDE
