"""How llama.cpp cuts a picture, beside `slicing.py`, which is what the models were trained with.

It differs (b11434): small pictures become a square, whatever their shape; a side above the slice
resolution cuts the picture at once; the arithmetic is float32; halves of a patch are rounded up;
and the part that is cut is fitted inside its size, with black bars, instead of filling it.

Only integers and float32 numbers; what is shown is in docs/export.md.
"""

import math
from dataclasses import dataclass

import numpy as np

from .slicing import SlicePlan

MOST_CELLS = 9  # fixed there, whatever a file says


@dataclass(frozen=True)
class LlamaCppPlan:
    """A cut, and how much of the refined picture is picture: (height, width), the rest black bars.

    None where it is not cut.
    """

    plan: SlicePlan
    picture: tuple[int, int] | None = None

    @property
    def has_bars(self) -> bool:
        return self.picture is not None and self.picture != self.plan.refined


def plan_like_llama_cpp(
    height: int, width: int, *, scale_resolution: int, patch_size: int
) -> LlamaCppPlan:
    """Cut an image of `height` x `width` pixels as llama.cpp does."""
    if height <= scale_resolution and width <= scale_resolution:
        return LlamaCppPlan(SlicePlan((scale_resolution, scale_resolution)))
    overview = _best_resize(height, width, scale_resolution, patch_size, upscale=False)
    rows, cols = _best_grid(height, width, scale_resolution)
    cell = _best_resize(
        _whole(height, rows) // rows,
        _whole(width, cols) // cols,
        scale_resolution,
        patch_size,
        upscale=True,
    )
    refined = (cell[0] * rows, cell[1] * cols)
    scale = min(
        np.float32(refined[1]) / np.float32(width), np.float32(refined[0]) / np.float32(height)
    )
    picture = (
        min(math.ceil(np.float32(height) * scale), refined[0]),
        min(math.ceil(np.float32(width) * scale), refined[1]),
    )
    return LlamaCppPlan(SlicePlan(overview, (rows, cols), refined, cell), picture)


def differences(ours: SlicePlan, theirs: LlamaCppPlan) -> list[str]:
    """What llama.cpp does otherwise, one phrase each; sizes are height x width."""
    lines = []
    plan = theirs.plan
    if ours.grid != plan.grid:
        lines.append(f"the grid is {_shown(plan.grid)}, the model's is {_shown(ours.grid)}")
    if ours.overview != plan.overview:
        is_square = plan.grid is None
        what = "the picture is distorted to" if is_square else "the overview has"
        lines.append(f"{what} {_shown(plan.overview)} pixels, the model's {_shown(ours.overview)}")
    if ours.grid == plan.grid and ours.cell != plan.cell:
        lines.append(f"a cell has {_shown(plan.cell)} pixels, the model's {_shown(ours.cell)}")
    if theirs.has_bars:
        lines.append(
            f"only {_shown(theirs.picture)} of the {_shown(plan.refined)} pixels that are cut show "
            "the picture; the rest are black bars"
        )
    return lines


def _shown(size: tuple[int, int] | None) -> str:
    return "none" if size is None else f"{size[0]} x {size[1]}"


def _best_resize(
    height: int, width: int, scale_resolution: int, patch_size: int, *, upscale: bool
) -> tuple[int, int]:
    if upscale or height * width > scale_resolution * scale_resolution:
        ratio = np.float32(width) / np.float32(height)
        height = int(np.float32(scale_resolution) / np.sqrt(ratio))
        width = int(np.float32(height) * ratio)
    return _whole(height, patch_size), _whole(width, patch_size)


def _whole(length: int, divisor: int) -> int:
    """The nearest multiple, at least one; halves go up."""
    parts = float(np.float32(length) / np.float32(divisor))
    return max(math.floor(parts + 0.5) * divisor, divisor)


def _best_grid(height: int, width: int, scale_resolution: int) -> tuple[int, int]:
    area = np.float32(scale_resolution * scale_resolution)
    ideal = min(math.ceil(np.float32(width) * np.float32(height) / area), MOST_CELLS)
    log_ratio = np.log(np.float32(width) / np.float32(height))
    best, smallest = (1, 1), math.inf
    for num_cells in (ideal - 1, ideal, ideal + 1):
        if num_cells == 1 or num_cells > MOST_CELLS:
            continue
        for cols in range(1, num_cells + 1):
            if num_cells % cols:
                continue
            rows = num_cells // cols
            error = float(np.float32(abs(float(log_ratio) - math.log(cols / rows))))
            if error < smallest:
                best, smallest = (rows, cols), error
    return best
