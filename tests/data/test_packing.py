"""Plans of rows: every example once, none cut, few tokens free, the same at every run."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.data.packing import RowDataset, plan_rows


@given(
    lengths=st.lists(st.integers(1, 60), max_size=200),
    capacity=st.integers(1, 80),
    seed=st.integers(0, 5),
    group=st.integers(1, 7),
    window=st.integers(1, 50),
)
def test_every_example_stands_once_in_a_row_with_room_for_it(
    lengths, capacity, seed, group, window
):
    rows = plan_rows(lengths, capacity, seed=seed, group=group, window=window)
    assert Counter(example for row in rows for example in row) == Counter(range(len(lengths)))
    for row in rows:
        assert len(row) <= 1 or sum(lengths[example] for example in row) <= capacity
    assert len(rows) % group == 0
    empty = [not row for row in rows]
    assert sum(empty) < group
    assert sorted(empty) == empty  # at the end
    assert rows == plan_rows(np.array(lengths), capacity, seed=seed, group=group, window=window)


def test_rows_are_full():
    lengths = np.random.default_rng(0).integers(20, 700, 5000)
    rows = plan_rows(lengths, 2048, seed=1)
    assert lengths.sum() / (2048 * len(rows)) > 0.99


def test_another_seed_is_another_plan():
    lengths = list(range(1, 100))
    assert plan_rows(lengths, 200, seed=1) != plan_rows(lengths, 200, seed=2)


@pytest.mark.parametrize("name", ["capacity", "group", "window"])
def test_numbers_below_one_are_refused(name):
    given = {"capacity": 10, "group": 1, "window": 8, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        plan_rows([1, 2], given.pop("capacity"), seed=0, **given)


def test_epochs_have_the_same_rows_in_another_order():
    plan = plan_rows([50] * 21, 100, seed=0, group=4)
    assert plan[-1] == []
    data = RowDataset(plan, seed=3)
    first = [data[i] for i in range(len(data))]
    data.set_epoch(1)
    second = [data[i] for i in range(len(data))]
    assert first != second
    assert sorted(first) == sorted(second) == sorted(plan)
    assert first[-1] == second[-1] == []
    data.set_epoch(0)
    assert [data[i] for i in range(len(data))] == first
