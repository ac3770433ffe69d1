"""Rows of the table: a mean with its interval, and the same of every group of items."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from minicpmv.evaluate.intervals import (
    Interval,
    mean_interval,
    percentiles,
    resampled_sums,
    wilson_interval,
)

from .contract import Score, ScoredItems

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

    from .contract import Scored


def value_of(scored: "Scored") -> float:
    """An answer that could not be read counts 0."""
    return 0.0 if scored.value is None else scored.value


def unparsed_in(scored: ScoredItems) -> int:
    """Answers that could not be read."""
    return sum(each.value is None for _, each in scored)


def check_some(scored: ScoredItems) -> None:
    """Refuse to summarise nothing.

    Raises:
        ValueError: there are no items.
    """
    if not scored:
        raise ValueError("0 items have no score; expected at least 1.")


def mean_row(
    name: str,
    scored: ScoredItems,
    *,
    scale: float = 100.0,
    unit: str = "%",
    less_is_better: bool = False,
) -> Score:
    """The mean value times `scale`; Wilson's interval where all values are 0 or 1."""
    check_some(scored)
    values = [value_of(each) for _, each in scored]
    low, high = mean_interval(values, max(1.0, *values))
    return Score(
        name,
        fmean(values) * scale,
        low * scale,
        high * scale,
        len(values),
        unparsed_in(scored),
        unit,
        less_is_better,
    )


def clustered_row(name: str, scored: ScoredItems, unit_of: Callable[["Item"], object]) -> Score:
    """The share of right answers in %, where those of one unit (a picture) go together: drawn
    again by unit."""
    row = mean_row(name, scored)
    sums: dict[object, list[float]] = {}
    for item, each in scored:
        right = sums.setdefault(unit_of(item), [0.0, 0.0])
        right[0] += value_of(each)
        right[1] += 1
    if len(sums) == len(scored):
        return row
    drawn = resampled_sums(list(sums.values()))
    low, high = widened(percentiles(100 * drawn[:, 0] / drawn[:, 1]), row.value, 100, len(sums))
    return Score(name, row.value, low, high, row.total, row.unparsed)


def widened(interval: Interval, value: float, most: float, units: int) -> Interval:
    """Wilson's interval where a bootstrap has found no spread and would claim to be certain; of few
    and skewed units the percentiles may lie beside the value, which belongs to its interval."""
    if interval[0] < interval[1]:
        return min(interval[0], value), max(interval[1], value)
    low, high = wilson_interval(min(max(value / most, 0.0), 1.0) * units, units)
    return low * most, high * most


def groups(scored: ScoredItems, name: str) -> dict[str, ScoredItems]:
    """Items by the value of a field, in alphabetical order; those without it are in none. A list
    puts an item in several groups."""
    found: dict[str, list[Any]] = {}
    for pair in scored:
        value = pair[0].fields.get(name)
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None and each != "":
                found.setdefault(str(each), []).append(pair)
    return dict(sorted(found.items()))


def breakdown(
    scored: ScoredItems,
    names: Iterable[str],
    row: Callable[[str, ScoredItems], Score] = mean_row,
    taken: Sequence[Score] = (),
) -> list[Score]:
    """A row for every value of each of these fields, where it has more than one. A value that
    names a row already is told apart by its field."""
    rows: list[Score] = []
    for name in names:
        found = groups(scored, name)
        if len(found) < 2:
            continue
        for value, members in found.items():
            known = {each.name for each in (*taken, *rows)}
            rows.append(row(f"{name}: {value}" if value in known else value, members))
    return rows


def mean_of_groups(name: str, found: Mapping[str, ScoredItems]) -> Score:
    """The mean of the means of groups, whatever their size, in %; the items of each are drawn
    again."""
    values = [[value_of(each) for _, each in members] for members in found.values()]
    together = [pair for members in found.values() for pair in members]
    value = 100 * fmean(map(fmean, values))
    drawn: Any = sum(
        resampled_sums(np.asarray(each)[:, None], seed=seed)[:, 0] / len(each)
        for seed, each in enumerate(values)
    )
    low, high = widened(percentiles(100 * drawn / len(values)), value, 100, len(together))
    return Score(name, value, low, high, len(together), unparsed_in(together))
