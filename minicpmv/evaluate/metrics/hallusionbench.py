"""HallusionBench (Guan 2024): the same questions about a picture and edited ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minicpmv.evaluate.intervals import percentiles, resampled_sums

from .contract import Score, Scored, ScoredItems, check_rules
from .summaries import check_some, groups, unparsed_in, value_of, widened
from .yes_no import score_yes_or_no, yes_or_no

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

_PARTS = ("aAcc", "fAcc", "qAcc")


@dataclass(frozen=True)
class HallusionBench:
    """In %: questions that are right (aAcc), figures all of whose questions are (fAcc), questions
    that are right about every figure (qAcc), and their mean, which the cards give.

    A figure and a question are numbered within a set, which is drawn again for the intervals.
    VLMEvalKit names a set by its subcategory alone, although `ocr` is one of both categories. The
    rule of lmms-eval is the one it has without a judge: an answer that has no "yes" in it is a no.
    """

    name: str = "hallusionbench"

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        if rules == "lmms-eval":
            return score_yes_or_no(item, "yes" if "yes" in answer.lower() else "no")
        return score_yes_or_no(item, yes_or_no(answer))

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        check_some(scored)
        rows = _rows("", scored, rules)
        for name in ("category", "l2-category", "subcategory"):
            for value, members in groups(scored, name).items():
                if len(members) < len(scored) and not any(
                    row.name.startswith(f"{value} ") for row in rows
                ):
                    rows += _rows(f"{value} ", members, rules)
        return rows


def _rows(prefix: str, scored: ScoredItems, rules: str) -> list[Score]:
    """The mean and its three parts."""
    sets: dict[str, dict[tuple[str, str], list[float]]] = {}
    for item, each in scored:
        in_set, figure, question = _place(item, rules)
        members = sets.setdefault(in_set, {})
        for key in (("figure", figure), ("question", question)):
            members.setdefault(key, []).append(value_of(each))
    units = np.array([_counts(members) for members in sets.values()])  # (num_sets, 6)
    drawn = resampled_sums(units)

    def rates(sums: np.ndarray) -> np.ndarray:
        return 100 * sums[..., 0::2] / sums[..., 1::2]  # (..., 3)

    values, resampled = rates(units.sum(0)), rates(drawn)  # (3,), (repeats, 3)
    columns = [
        (f"mean of {', '.join(_PARTS)}", values.mean(), resampled.mean(1)),
        *zip(_PARTS, values, resampled.T, strict=True),
    ]
    rows = []
    for name, value, spread in columns:
        low, high = widened(percentiles(spread), float(value), 100, len(units))
        total, unparsed = len(scored), unparsed_in(scored)
        rows.append(Score(prefix + name, float(value), low, high, total, unparsed))
    return rows


def _counts(members: dict[tuple[str, str], list[float]]) -> list[float]:
    """Of one set: right and all of its answers, figures and questions."""
    figures, questions = (
        [values for (kind, _), values in members.items() if kind == name]
        for name in ("figure", "question")
    )
    answers = [value for values in figures for value in values]
    return [
        *(sum(answers), len(answers)),
        *(sum(map(min, figures)), len(figures)),
        *(sum(map(min, questions)), len(questions)),
    ]


def _place(item: "Item", rules: str) -> tuple[str, str, str]:
    """Set, figure and question: of fields of these names, else of the item's id, as
    hallusion_VD_illusion_0_1_2."""
    fields, parts = item.fields, item.id.split("_")
    names = ("set_id", "figure_id", "question_id")
    if all(name in fields for name in names):
        numbers = [str(fields[name]) for name in names]
    elif len(parts) >= 6:
        numbers = parts[3:6]
    else:
        raise ValueError(
            f"Item {item.id!r} of HallusionBench has neither the fields {', '.join(names)} nor "
            "an id that ends in them, as hallusion_VD_illusion_0_1_2."
        )
    category = str(fields.get("l2-category", fields.get("subcategory", "")))
    if rules == "lmms-eval":
        category = f"{fields.get('category', '')}_{category}"
    return f"{category}_{numbers[0]}", numbers[1], numbers[2]
