"""MME (Fu 2023): pairs of questions of yes and no about the same picture, in 14 subtasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minicpmv.evaluate.intervals import percentiles, resampled_sums

from .contract import Score, Scored, ScoredItems
from .summaries import check_some, groups, unparsed_in, value_of, widened
from .yes_no import YesNo

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

PARTS = {
    "perception": (
        *("existence", "count", "position", "color", "posters", "celebrity", "scene"),
        *("landmark", "artwork", "OCR"),
    ),
    "cognition": (
        *("commonsense_reasoning", "numerical_calculation", "text_translation"),
        "code_reasoning",
    ),
}
SUBTASKS = (*PARTS["perception"], *PARTS["cognition"])


@dataclass(frozen=True)
class MME:
    """Points: for each subtask 100 times the accuracy, and 100 times the share of pictures whose
    questions are all right; at most 2800. Of a part of the data the sum is named as such."""

    name: str = "mme"

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        return YesNo().score(item, answer, rules)

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        check_some(scored)
        found = groups(scored, "category")
        if sum(map(len, found.values())) < len(scored):
            raise ValueError("Items of MME need a field `category`: the subtask that they are of.")
        rows = [_row("perception + cognition", found, [*found], len(SUBTASKS))]
        for part, subtasks in PARTS.items():
            members = [name for name in subtasks if name in found]
            if members:
                rows.append(_row(part, found, members, len(subtasks)))
        return rows + [_row(name, found, [name], 1) for name in found]


def _row(name: str, found: dict[str, ScoredItems], subtasks: Sequence[str], expected: int) -> Score:
    """The sum of these subtasks, whose pictures are drawn again independently."""
    if len(subtasks) < expected:
        name += f" ({len(subtasks)} of {expected} subtasks)"
    pictures = [_pictures(found[subtask]) for subtask in subtasks]
    value = sum(float(_points(each.sum(0))) for each in pictures)
    drawn: Any = sum(_points(resampled_sums(each, seed=seed)) for seed, each in enumerate(pictures))
    num_pictures = sum(map(len, pictures))
    low, high = widened(percentiles(drawn), value, 200.0 * len(subtasks), num_pictures)
    members = [pair for subtask in subtasks for pair in found[subtask]]
    return Score(name, value, low, high, len(members), unparsed_in(members), "points")


def _points(sums: np.ndarray) -> np.ndarray:
    """Of (..., 4) sums over pictures."""
    return 100 * sums[..., 0] / sums[..., 1] + 100 * sums[..., 2] / sums[..., 3]


def _pictures(scored: ScoredItems) -> np.ndarray:
    """(num_pictures, 4): right answers, answers, whether all are right, 1."""
    values: dict[str, list[float]] = {}
    for item, each in scored:
        values.setdefault(_picture(item), []).append(value_of(each))
    return np.array([[sum(v), len(v), min(v), 1] for v in values.values()])


def _picture(item: "Item") -> str:
    for name in ("image_path", "question_id"):
        if item.fields.get(name):
            return str(item.fields[name])
    raise ValueError(
        f"Item {item.id!r} of MME has no field `image_path` that says which picture it is about."
    )
