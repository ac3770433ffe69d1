"""How an image is cut: grids, sizes and token counts as arithmetic on integers.

An image is resized to one **overview**. When it is much larger than the square the vision tower is
used to, the original is resized a second time, cut into a grid of equal cells, and the cells follow
the overview. The rule is LLaVA-UHD's "modularized visual encoding" (arXiv:2403.11703, section 3.1).

Height comes before width and rows before columns here. Released files write (width, height) and
(columns, rows); `image_processor.py` turns them where they enter.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SlicePlan:
    """How one image is resized and cut; every size is (height, width) in pixels.

    `grid`, `refined` and `cell` are None when the image is not cut. Otherwise the image is resized
    to `refined` and cut into `grid` = (rows, cols) pieces of size `cell`.
    """

    overview: tuple[int, int]
    grid: tuple[int, int] | None = None
    refined: tuple[int, int] | None = None
    cell: tuple[int, int] | None = None

    @property
    def num_slices(self) -> int:
        """The overview and the cells of the grid."""
        return 1 if self.grid is None else 1 + self.grid[0] * self.grid[1]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Size of every slice in the model's order: the overview, then the cells, row-major."""
        return (
            [self.overview] + [self.cell] * (self.num_slices - 1) if self.cell else [self.overview]
        )

    def target_sizes(self, patch_size: int) -> list[tuple[int, int]]:
        """(height, width) of every slice in patches."""
        return [(height // patch_size, width // patch_size) for height, width in self.sizes]

    def num_tokens(self, num_queries: int) -> int:
        """Visual tokens the image takes: every slice is summarised by `num_queries` vectors."""
        return self.num_slices * num_queries


def ensure_divide(length: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `length`, and at least one `divisor`.

    Halves go to the even multiple, as Python's `round` does: 343 / 14 = 24.5 gives 24 * 14.
    """
    return max(round(length / divisor) * divisor, divisor)


def best_resize(
    height: int, width: int, scale_resolution: int, patch_size: int, *, upscale: bool
) -> tuple[int, int]:
    """Size with the shape of the image, sides that divide by patches, and a bounded area.

    The area is about `scale_resolution` squared. A smaller image keeps its own size, up to
    rounding, unless `upscale` asks for the full area.

    Returns:
        (height, width) in pixels, both multiples of `patch_size`.

    Raises:
        ValueError: a side, `scale_resolution` or `patch_size` is not a positive whole number.
    """
    _check_positive(
        height=height, width=width, scale_resolution=scale_resolution, patch_size=patch_size
    )
    if upscale or height * width > scale_resolution * scale_resolution:
        ratio = width / height
        height = int(scale_resolution / math.sqrt(ratio))
        # Released models take the height that was already cut to whole pixels.
        width = int(height * ratio)
    return ensure_divide(height, patch_size), ensure_divide(width, patch_size)


def best_grid(
    height: int, width: int, max_slices: int, scale_resolution: int
) -> tuple[int, int] | None:
    """Choose how to cut an image of `height` x `width` pixels.

    The ideal number of slices is the image area over `scale_resolution` squared, rounded up. Among
    the factorisations of that number and its two neighbours, take the one whose shape is closest,
    in log ratio, to the image's. A tie goes to the first found, fewest columns first, as in the
    released models.

    Returns:
        (rows, cols) of the detail slices, or None when one slice is enough.

    Raises:
        ValueError: a side is not positive, or `max_slices` is below 1.
    """
    _check_positive(
        height=height, width=width, max_slices=max_slices, scale_resolution=scale_resolution
    )
    ideal = min(math.ceil(height * width / (scale_resolution * scale_resolution)), max_slices)
    if ideal <= 1:
        return None
    log_ratio = math.log(width / height)
    best, smallest_error = None, math.inf
    for num_cells in (ideal - 1, ideal, ideal + 1):
        if num_cells == 1 or num_cells > max_slices:
            continue
        for cols in range(1, num_cells + 1):
            if num_cells % cols:
                continue
            rows = num_cells // cols
            error = abs(log_ratio - math.log(cols / rows))
            if error < smallest_error:
                best, smallest_error = (rows, cols), error
    return best


def plan_slices(
    height: int, width: int, *, max_slices: int, scale_resolution: int, patch_size: int
) -> SlicePlan:
    """Plan the overview and the detail slices of an image of `height` x `width` pixels.

    Raises:
        ValueError: an argument is not a positive whole number.
    """
    grid = best_grid(height, width, max_slices, scale_resolution)
    overview = best_resize(height, width, scale_resolution, patch_size, upscale=grid is None)
    if grid is None:
        return SlicePlan(overview)
    rows, cols = grid
    cell = best_resize(
        ensure_divide(height, rows) // rows,
        ensure_divide(width, cols) // cols,
        scale_resolution,
        patch_size,
        upscale=True,
    )
    return SlicePlan(overview, grid, (cell[0] * rows, cell[1] * cols), cell)


def plan_uncut(height: int, width: int, patch_size: int, *, fill: bool) -> SlicePlan:
    """The image as it is, in whole patches: fewer, or with `fill` more, than it has pixels for.

    Raises:
        ValueError: it is smaller than one patch.
    """
    rows, cols = height // patch_size, width // patch_size
    if fill:
        rows, cols = -(-height // patch_size), -(-width // patch_size)
    if not rows or not cols:
        raise ValueError(
            f"An image of {width} x {height} pixels holds no patch of {patch_size} x "
            f"{patch_size}, and slice_mode=False does not enlarge it. Use slice_mode=True."
        )
    return SlicePlan((rows * patch_size, cols * patch_size))


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or value != int(value) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1.")
