"""The table that the searches work in: a column per sub-block, a row per value or per number.

One array holds everything, so that the compiler sees that rows do not overlap. Columns beyond the
last sub-block are zeros, which every search takes.
"""

from typing import Any

import numpy as np

from .arithmetic import LANES, F, compiled, size_bits

X = 0  # the values, up to 32 rows
W = 32  # their weights
CODES = 64  # integers, as float32
# Rows of one number per sub-block.
LEAST, MOST, SUM_W, SUM_X, BEST, INVERSE = 96, 97, 98, 99, 100, 101
SUM_L, SUM_LL, SUM_XL = 102, 103, 104
TRY_SCALE, TRY_LEAST, TRY_ERROR = 105, 106, 107
SCALE, OFFSET = 108, 109  # what a search finds
KEPT_INVERSE, KEPT_LEAST = 110, 111  # the codes of the best try come from these
STEP, SHIFT = 112, 113  # the rounded scale and offset
KEPT_FIRST = 114  # whether the first try was the best
ROWS = 115


@compiled
def table() -> Any:
    return np.zeros((ROWS, LANES), np.float32)


@compiled
def fill(x: Any, first: int, n: int, s: Any) -> None:
    """Sub-blocks of `n` values from sub-block `first` on, into X."""
    count = len(x) // n
    for b in range(LANES):
        if first + b < count:
            start = (first + b) * n
            for i in range(n):
                s[X + i, b] = x[start + i]
        else:
            for i in range(n):
                s[X + i, b] = F(0)


@compiled
def weigh_by_square(n: int, s: Any) -> None:
    for i in range(n):
        for b in range(LANES):
            s[W + i, b] = s[X + i, b] * s[X + i, b]


@compiled
def weigh_by_size(n: int, s: Any) -> None:
    for i in range(n):
        for b in range(LANES):
            s[W + i, b] = abs(s[X + i, b])


@compiled
def weigh_by_size_and_spread(n: int, s: Any) -> None:
    """|x| plus the root of the mean square."""
    for b in range(LANES):
        s[SUM_W, b] = F(0)
    for i in range(n):
        for b in range(LANES):
            s[SUM_W, b] += s[X + i, b] * s[X + i, b]
    for b in range(LANES):
        s[SUM_W, b] = np.sqrt(s[SUM_W, b] / F(n))
    for i in range(n):
        for b in range(LANES):
            s[W + i, b] = s[SUM_W, b] + abs(s[X + i, b])


@compiled
def greatest(n: int, s: Any, row: int) -> None:
    """The first value of greatest size of each sub-block, with its sign, into `row`."""
    for b in range(LANES):
        s[row, b] = F(0)
    for i in range(n):
        for b in range(LANES):
            value, most = s[X + i, b], s[row, b]
            s[row, b] = value if size_bits(value) > size_bits(most) else most
