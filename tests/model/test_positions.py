"""Positions of patches, by tensor arithmetic alone: the released numbers on every processor."""

import pytest
import torch
from torch import nn

from minicpmv.model.positions import grid_positions, position_buckets, resize_table

from ..helpers.golden import golden_case


def released_buckets(num_patches, side):
    """Buckets by float32 arithmetic, in groups of eight as `torch.arange` does it on x86."""

    def arange(start, step, count):
        index = torch.arange(count)
        lane = index % 8
        first = (start + (index - lane).double() * step).float().double()
        return (first + lane.double() * step).float()

    places = arange(0.0, (1 / torch.tensor(num_patches)).item(), num_patches)
    return torch.bucketize(places, arange(1 / side, 1 / side, side - 1), right=True)


def test_buckets_are_the_recorded_ones():
    tensors = golden_case("2.6", "single_tiny").golden.tensors
    counts = tensors["tables/bucket_n"].tolist()
    recorded = tensors["tables/bucket_values_concatenated"].split(counts)
    for count, buckets in zip(counts, recorded, strict=True):
        assert position_buckets(count, 70).tolist() == buckets.tolist(), count


@pytest.mark.parametrize("side", [70, 56])  # the releases; the bundled model
def test_buckets_round_as_the_released_models(side):
    for count in [*range(1, 1100), 2048, 4095, 16385, 40001]:
        assert torch.equal(position_buckets(count, side), released_buckets(count, side)), count


def test_last_bits_decide_some_buckets():
    """Exact fractions would not do."""
    exact = torch.arange(25) * 70 // 25
    assert not torch.equal(position_buckets(25, 70), exact)


def test_a_place_on_a_boundary_belongs_to_the_next_bucket():
    # 4 patches over 8 buckets: places 0, 1/4, 1/2, 3/4 lie on boundaries 2/8, 4/8, 6/8.
    assert position_buckets(4, 8).tolist() == [0, 2, 4, 6]
    # A slice as wide as the table uses each row once.
    assert position_buckets(70, 70).tolist() == list(range(70))


def test_buckets_of_many_sizes_at_once():
    sizes, index = torch.tensor([[7], [25], [100]]), torch.arange(100)
    found = position_buckets(sizes, 70, index)
    for row, size in zip(found, (7, 25, 100), strict=True):
        assert torch.equal(row[:size], position_buckets(size, 70))


def test_grid_positions_say_the_column_then_the_row():
    found = grid_positions(torch.tensor([[2, 3], [1, 4]]), 6, 8, torch.float32)
    assert found.shape == (2, 6, 8)
    assert torch.equal(found[0, 4], torch.cat([found[1, 1, :4], found[0, 3, 4:]]))
    assert torch.equal(found[0, 1, :4], found[1, 1, :4])


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("side", [27, 16, 8])
def test_resized_tables_are_those_of_interpolate(side, antialias):
    table = torch.randn(side * side, 6, generator=torch.Generator().manual_seed(side))
    square = table.double().T.view(1, 6, side, side)
    sizes = [(32, 32), (side, side), (27, 16), (5, 40), (1, 90), (50, 21), (1, 1)]
    found = resize_table(table, torch.tensor(sizes), 32 * 40, antialias=antialias)
    for rows, size in zip(found, sizes, strict=True):
        # In float64: PyTorch's float32 kernel places the points less exactly than ours.
        grid = nn.functional.interpolate(square, size, mode="bicubic", antialias=antialias)
        expected = grid[0].flatten(1).T.float()
        torch.testing.assert_close(rows[: len(expected)], expected, atol=5e-6, rtol=0)
        assert not rows[len(expected) :].any()


def test_a_resized_table_gives_its_gradient_back():
    table = torch.randn(16, 3, requires_grad=True)
    resize_table(table, torch.tensor([[2, 5], [4, 4]]), 16, antialias=True).sum().backward()
    torch.testing.assert_close(table.grad.sum(), torch.tensor(3.0 * (10 + 16)))
