"""Examples into rows of a fixed capacity, so that no step spends time on padding.

The plan is made once per run: which examples share a row, and how many rows there are, is the same
in every epoch; their order changes.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

Row = list[int]


def plan_rows(
    lengths: Sequence[int] | npt.NDArray[np.integer],
    capacity: int,
    *,
    seed: int,
    group: int = 1,
    window: int = 2048,
) -> list[Row]:
    """Which examples stand in each row: every one once, none cut.

    Args:
        lengths: tokens of each example.
        capacity: tokens of a row; a longer example has a row of its own.
        seed: of the order.
        group: rows of one step of the optimiser over all processes. Empty rows fill the last group,
            so that the losses do not depend on the number of processes.
        window: how many examples are looked at together.

    Raises:
        ValueError: a number is below 1.
    """
    for name, value in (("capacity", capacity), ("group", group), ("window", window)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    lengths = np.asarray(lengths, dtype=np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    rows: list[Row] = []
    for start in range(0, len(order), window):
        rows += _best_fit(order[start : start + window], lengths, capacity)
    rows = [rows[index] for index in rng.permutation(len(rows))]
    return rows + [[] for _ in range(-len(rows) % group)]


def _best_fit(
    examples: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer], capacity: int
) -> list[Row]:
    """Longest first, each into the fullest row that has room for it."""
    rows: list[Row] = []
    room: list[tuple[int, int]] = []  # (tokens left, number of the row), sorted
    for example in examples[np.argsort(-lengths[examples], kind="stable")]:
        length = int(lengths[example])
        place = bisect_left(room, (length, 0))
        if place < len(room):
            left, row = room.pop(place)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(int(example))
        if left > length:
            insort(room, (left - length, row))
    return rows


class RowDataset(Dataset[Row]):
    """The rows of a plan, in another order in each epoch.

    Read in sequence: the order is made here, and accelerate calls `set_epoch`.
    """

    def __init__(self, plan: Sequence[Row], seed: int = 0) -> None:
        self.plan = list(plan)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle the rows; empty ones stay at the end, where they fill the last group."""
        full = [index for index, row in enumerate(self.plan) if row]
        empty = [index for index, row in enumerate(self.plan) if not row]
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(len(full))
        self._order = [full[index] for index in shuffled] + empty

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Row:
        return self.plan[self._order[index]]
