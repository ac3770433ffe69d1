"""Random numbers that are passed over leave the generator where making them does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpmv.kernels import library
from minicpmv.kernels.random import _knows, random_bits


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    if library() is None:
        pytest.skip("there is no compiler")


def test_the_generator_of_torch_is_the_one_that_is_compiled() -> None:
    found = library()
    assert found is not None
    assert _knows(found)


@settings(deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.integers(1, 3000), st.sampled_from([1, 2, 311, 700])), max_size=4),
    st.integers(0, 700),
)
def test_numbers_and_state_are_those_of_torch(
    seed: int, draws: list[tuple[int, int]], before: int
) -> None:
    one, other = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    for generator in (one, other):
        torch.rand(before, generator=generator)
    for num, step in draws:
        places = torch.arange(0, num, step)
        expected = torch.empty(num, dtype=torch.long).random_(generator=other)[places]
        assert torch.equal(random_bits(one, num, places), expected)
        assert torch.equal(one.get_state(), other.get_state())
    assert random_bits(one, 5, torch.empty(0, dtype=torch.long)).numel() == 0
