import random

import pytest

from minicpmv.processing.slicing import best_grid, best_resize, ensure_divide, plan_slices


def random_sizes(count: int = 300) -> list[tuple[int, int, int]]:
    draw = random.Random(0)
    return [
        (int(2 ** draw.uniform(0, 12)), int(2 ** draw.uniform(0, 12)), draw.randint(1, 16))
        for _ in range(count)
    ]


@pytest.mark.parametrize(("scale_resolution", "patch_size"), [(448, 14), (224, 14), (64, 4)])
def test_sides_divide_by_the_patch_and_cells_tile_the_refined_image(scale_resolution, patch_size):
    for height, width, max_slices in random_sizes():
        plan = plan_slices(
            height,
            width,
            max_slices=max_slices,
            scale_resolution=scale_resolution,
            patch_size=patch_size,
        )
        assert all(side % patch_size == 0 and side > 0 for size in plan.sizes for side in size)
        assert plan.num_slices == len(plan.sizes) == len(plan.target_sizes(patch_size))
        assert plan.num_tokens(7) == 7 * plan.num_slices
        if plan.grid is not None:
            rows, cols = plan.grid
            assert 2 <= rows * cols <= max_slices
            assert plan.refined == (plan.cell[0] * rows, plan.cell[1] * cols)


def test_no_slice_is_much_larger_than_the_budget():
    for height, width, max_slices in random_sizes():
        if max(height, width) > 20 * min(height, width):
            continue  # a strip thinner than a patch is widened to one
        plan = plan_slices(
            height, width, max_slices=max_slices, scale_resolution=448, patch_size=14
        )
        assert all(h * w <= 1.2 * 448 * 448 for h, w in plan.sizes)


def test_an_image_of_the_model_s_own_size_is_not_cut():
    plan = plan_slices(448, 448, max_slices=9, scale_resolution=448, patch_size=14)
    assert (plan.overview, plan.grid, plan.num_slices) == ((448, 448), None, 1)


def test_a_tie_takes_the_fewest_columns():
    assert best_grid(449, 449, 9, 448) == (2, 1)


def test_turning_the_image_turns_the_grid():
    for height, width in [(300, 1000), (448, 1344), (2000, 3000)]:
        rows, cols = best_grid(height, width, 9, 448)
        assert best_grid(width, height, 9, 448) == (cols, rows)


def test_small_images_are_enlarged_and_large_ones_reduced():
    assert best_resize(40, 30, 448, 14, upscale=True) == (518, 392)
    assert best_resize(40, 30, 448, 14, upscale=False) == (42, 28)
    assert best_resize(900, 900, 448, 14, upscale=False) == (448, 448)


def test_halves_round_to_the_even_multiple():
    assert [ensure_divide(length, 14) for length in (343, 357, 3)] == [336, 364, 14]


@pytest.mark.parametrize(
    ("height", "width", "max_slices", "name"),
    [(0, 5, 9, "height"), (5, -1, 9, "width"), (5, 5, 0, "max_slices"), (5, 5, True, "max_slices")],
)
def test_senseless_numbers_are_named(height, width, max_slices, name):
    with pytest.raises(ValueError, match=f"{name} is .*at least 1"):
        plan_slices(height, width, max_slices=max_slices, scale_resolution=448, patch_size=14)
