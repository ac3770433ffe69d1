"""Two runs of one page, item by item: who is right where, and whether that can be chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minicpmv.evaluate.intervals import Difference, paired_difference
from minicpmv.evaluate.metrics.contract import Scored

# What must be the same for items to be comparable; settings of a run by these names.
_SAME = ("page", "page version", "data")


@dataclass(frozen=True)
class Side:
    """One of two runs.

    Fields:
        name: of the run, for people.
        settings: of its run.json.
        answers, scored: by the id of the item. prompts: what stands for what was asked.
    """

    name: str
    settings: Mapping[str, Any]
    answers: Mapping[str, str]
    scored: Mapping[str, Scored]
    prompts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """An item that one run has better than the other."""

    id: str
    first: float
    second: float
    first_answer: str
    second_answer: str


@dataclass(frozen=True)
class Comparison:
    """Two runs on the items that both have.

    Fields:
        difference: the second's mean less the first's, between -1 and 1, with its 95 % interval,
            and McNemar's exact p of the items on which they differ.
        both, neither: items that both have wholly right, or neither has.
        only_first, only_second: items that one has wholly right.
        missing_first, missing_second: items that only the other run has.
        changes: items with other values, those that got worse first.
    """

    first: str
    second: str
    difference: Difference
    both: int
    only_first: int
    only_second: int
    neither: int
    missing_first: int
    missing_second: int
    changes: tuple[Change, ...]
    less_is_better: bool = False


def compare(first: Side, second: Side, *, less_is_better: bool = False) -> Comparison:
    """Compare two runs on the items that both have answered.

    Args:
        less_is_better: values are errors, as in the table's first row. An answer that could not be
            read counts as the worst.

    Raises:
        ValueError: the runs are of other pages, versions or data, or have no items in common.
    """
    for name in _SAME:
        one, other = first.settings.get(name), second.settings.get(name)
        if one != other:
            raise ValueError(
                f"{first.name} was made with {name} {_shown(one)} and {second.name} with {name} "
                f"{_shown(other)}; only runs of the same {name} can be compared item by item."
            )
    ids = [item_id for item_id in first.scored if item_id in second.scored]
    if not ids:
        raise ValueError(f"{first.name} and {second.name} have no items in common.")
    _check_items(first, second, ids)
    ones = [_worth(first.scored[each], less_is_better) for each in ids]
    others = [_worth(second.scored[each], less_is_better) for each in ids]
    right = [(one >= 1, other >= 1) for one, other in zip(ones, others, strict=True)]
    changes = [
        Change(each, one, other, first.answers.get(each, ""), second.answers.get(each, ""))
        for each, one, other in zip(ids, ones, others, strict=True)
        if one != other
    ]
    return Comparison(
        first.name,
        second.name,
        paired_difference(ones, others),
        both=right.count((True, True)),
        only_first=right.count((True, False)),
        only_second=right.count((False, True)),
        neither=right.count((False, False)),
        missing_first=sum(each not in first.scored for each in second.scored),
        missing_second=len(first.scored) - len(ids),
        changes=tuple(sorted(changes, key=lambda change: change.second - change.first)),
        less_is_better=less_is_better,
    )


def _check_items(first: Side, second: Side, ids: Sequence[str]) -> None:
    """Refuse items of one id that are not the same, as far as that can be told: runs that ask in
    the same words have the same prompts."""
    if first.settings.get("asked") != second.settings.get("asked"):
        return
    others = [each for each in ids if first.prompts.get(each) != second.prompts.get(each)]
    if others:
        raise ValueError(
            f"{len(others)} of {len(ids)} items of {first.name} and {second.name} are not the "
            f"same, beginning with {others[0]!r}: the runs are of other data."
        )


def _worth(scored: Scored, less_is_better: bool) -> float:
    """1 is right, and more is better, whatever the metric counts."""
    if scored.value is None:
        return 0.0
    return 1 - scored.value if less_is_better else scored.value


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)


def comparison_table(found: Comparison, most: int = 20) -> str:
    """The comparison as text, with up to `most` items that changed."""
    shift = found.difference
    chance = "below 0.0001" if shift.p < 1e-4 else f"{shift.p:.4f}"
    width = max(len(found.first), len(found.second), 12)
    lines = [
        f"A  {found.first}",
        f"B  {found.second}",
        "",
        f"{'both right':<{width}}  {found.both:>6}",
        f"{'only A right':<{width}}  {found.only_first:>6}",
        f"{'only B right':<{width}}  {found.only_second:>6}",
        f"{'neither':<{width}}  {found.neither:>6}",
        "",
        f"B - A  {100 * shift.value:+.1f} points (95 % interval {100 * shift.low:+.1f} to "
        f"{100 * shift.high:+.1f}), McNemar's exact p {chance}, {shift.total} items",
    ]
    for name, missing in (("A", found.missing_first), ("B", found.missing_second)):
        if missing:
            lines.append(f"{missing} items are not compared: {name} has no answer to them.")
    if found.changes:
        lines += ["", f"{len(found.changes)} items changed, the worst for B first:"]
        lines += [_line(change) for change in _ends(found.changes, most)]
    if len(found.changes) > most:
        lines.append(f"... {len(found.changes) - most} more")
    return "\n".join(lines)


def _ends(changes: Sequence[Change], most: int) -> Sequence[Change]:
    """The first and the last ones, where there are too many."""
    if len(changes) <= most:
        return changes
    return [*changes[: most - most // 2], *changes[len(changes) - most // 2 :]]


def _line(change: Change) -> str:
    first, second = (_short(text) for text in (change.first_answer, change.second_answer))
    return f"{change.id}  {change.first:g} -> {change.second:g}  {first!r} -> {second!r}"


def _short(text: str, most: int = 40) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."
