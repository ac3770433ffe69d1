"""How sure a score is after so many items, and whether two models differ on the same items.

Shares have Wilson's interval. Everything else is drawn again from its independent units: the
picture where a picture has several questions, the question where it is asked in several orders.
All intervals are of 95 %, and the same on every run.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

_Unit = TypeVar("_Unit")
Interval = tuple[float, float]
Z = 1.959964  # 97.5 % of the normal distribution
REPEATS = 1000
_DRAWN_AT_ONCE = 2_000_000  # indices; 16 MB


def wilson_interval(right: float, total: int) -> Interval:
    """The 95 % interval of a share (Wilson 1927), which stays within 0 and 1 and is honest for few
    trials.

    Raises:
        ValueError: no trials, or more right than trials.
    """
    if not 0 <= right <= total or total < 1:
        raise ValueError(
            f"{right} right of {total} is no share; expected 0 <= right <= total, total >= 1."
        )
    share = right / total
    middle = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    # Rounding must not push the ends past a share of 0 or 1.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def bootstrap_interval(
    units: Sequence[_Unit], statistic: Callable[[Sequence[_Unit]], float], repeats: int = REPEATS
) -> Interval:
    """The 95 % percentile interval of any number computed from independent units, by resampling
    them with replacement (Efron 1979). For sums and means `resampled_sums` is far faster.

    Raises:
        ValueError: there are no units.
    """
    if not units:
        raise ValueError("0 units have no interval; expected at least 1.")
    rng = random.Random(0)
    drawn = sorted(statistic(rng.choices(units, k=len(units))) for _ in range(repeats))
    return drawn[round(0.025 * (repeats - 1))], drawn[round(0.975 * (repeats - 1))]


def resampled_sums(units: Any, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
    """Sums over units that are drawn with replacement, again and again.

    Args:
        units: (num_units, num_columns): what each unit adds to each of the sums.
        seed: another one for units that are independent of these.

    Returns:
        (repeats, num_columns)

    Raises:
        ValueError: there are no units.
    """
    units = np.asarray(units, float)
    if not len(units):
        raise ValueError("0 units have no interval; expected at least 1.")
    rng = np.random.default_rng(seed)
    sums = np.empty((repeats, units.shape[1]))
    step = max(1, _DRAWN_AT_ONCE // len(units))
    for start in range(0, repeats, step):
        drawn = rng.integers(0, len(units), (min(step, repeats - start), len(units)))
        for column in range(units.shape[1]):
            sums[start : start + step, column] = units[drawn, column].sum(1)
    return sums


def percentiles(drawn: np.ndarray) -> Interval:
    """The middle 95 % of resampled values; those that are no number (0 of 0) are left out."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], most: float = 1.0) -> Interval:
    """Of the mean of independent values between 0 and `most`: Wilson's where all are 0 or `most`.

    Raises:
        ValueError: there are no values.
    """
    if set(values) <= {0, most} or len(set(values)) == 1:
        # Of equal values a bootstrap would claim to be certain; Wilson's is the widest there is.
        low, high = wilson_interval(sum(values) / most, len(values))
        return low * most, high * most
    mean = sum(values) / len(values)
    low, high = percentiles(resampled_sums(np.asarray(values)[:, None])[:, 0] / len(values))
    return min(low, mean), max(high, mean)  # of few values all drawn means may lie on one side


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Sum of the first numbers over the sum of the second."""
    return sum(part for part, _ in pairs) / max(1e-9, sum(whole for _, whole in pairs))


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact p-value, two-sided, of two models that differ on so many items (McNemar 1947): how
    often a fair coin would fall at least as unevenly.

    Args:
        only_first: items that only the first has right; only_second: only the second.

    Raises:
        ValueError: a number is negative.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"{only_first} and {only_second} items; expected at least 0 of each.")
    total = only_first + only_second
    ways = term = 1
    for k in range(1, min(only_first, only_second) + 1):
        term = term * (total - k + 1) // k
        ways += term
    return min(1.0, 2 * ways / 2**total)  # whole numbers, so exact however many there are


@dataclass(frozen=True)
class Difference:
    """Of two models on the same items: the second's mean less the first's, its 95 % interval, and
    how likely chance alone would show as much."""

    value: float
    low: float
    high: float
    p: float
    only_first: int
    only_second: int
    total: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare two models item by item.

    Args:
        first, second: score of each item, in the same order, between 0 and 1. An item counts for
            `only_first` where the first's score is higher.

    Raises:
        ValueError: no items, or not as many of one as of the other.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"{len(first)} and {len(second)} items cannot be compared; expected as many of each."
        )
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    total, value = len(first), (sum(second) - sum(first)) / len(first)
    if {*first, *second} <= {0, 1}:
        low, high = _newcombe(first, second)
    else:
        differences = np.asarray(second, float) - np.asarray(first, float)
        low, high = percentiles(resampled_sums(differences[:, None])[:, 0] / total)
    p = mcnemar(only_first, only_second)
    return Difference(value, low, high, p, only_first, only_second, total)


def _newcombe(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Of a difference of paired shares: Newcombe 1998, "Improved confidence intervals for the
    difference between binomial proportions based on paired data", method 10. Unlike the normal
    one it has a width where no items differ.
    """
    n = len(first)
    a = sum(x * y for x, y in zip(first, second, strict=True))  # both right
    b, c = sum(second) - a, sum(first) - a  # only the second, only the first
    d = n - a - b - c
    p2, p1 = (a + b) / n, (a + c) / n
    low2, high2 = wilson_interval(a + b, n)
    low1, high1 = wilson_interval(a + c, n)
    spread = (a + b) * (c + d) * (a + c) * (b + d)
    product = a * d - b * c
    if product > 0:
        product = max(0.0, product - n / 2)  # for continuity
    correlation = product / math.sqrt(spread) if spread else 0.0
    below = (p2 - low2) ** 2 - 2 * correlation * (p2 - low2) * (high1 - p1) + (high1 - p1) ** 2
    above = (high2 - p2) ** 2 - 2 * correlation * (high2 - p2) * (p1 - low1) + (p1 - low1) ** 2
    value = p2 - p1
    return value - math.sqrt(max(0.0, below)), value + math.sqrt(max(0.0, above))
