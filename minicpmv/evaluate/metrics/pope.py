"""POPE (Li 2023): whether a thing is in the picture, asked about things that often are there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from minicpmv.evaluate.intervals import mean_interval, percentiles, resampled_sums

from .contract import Score, Scored, ScoredItems, check_rules
from .summaries import check_some, groups, unparsed_in, widened
from .yes_no import score_yes_or_no, true_answer, yes_or_no

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """0 of 0 is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


# Of (..., 6) sums: said yes and is, said yes and is not, missed yes, right, said yes, all.
_RATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F1": lambda s: _share(2 * s[..., 0], 2 * s[..., 0] + s[..., 1] + s[..., 2]),
    "accuracy": lambda s: _share(s[..., 3], s[..., 5]),
    "precision": lambda s: _share(s[..., 0], s[..., 0] + s[..., 1]),
    "recall": lambda s: _share(s[..., 0], s[..., 0] + s[..., 2]),
    "yes ratio": lambda s: _share(s[..., 4], s[..., 5]),
}


@dataclass(frozen=True)
class POPE:
    """F1 of yes, accuracy, precision, recall and the share of answers that say yes, in %; of all
    and of random, popular and adversarial questions.

    lmms-eval wants nothing but the word, does not count an unread answer as a missed yes, and
    computes the share of yes from the references, so that it is the same for every model.
    VLMEvalKit's file has a question once for several categories, and counts it once for each.
    """

    name: str = "pope"

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        if rules != "lmms-eval":
            return score_yes_or_no(item, yes_or_no(answer))
        said = answer.lower().strip()
        return score_yes_or_no(item, said if said in ("yes", "no") else None)

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        check_some(scored)
        if rules != "lmms-eval":
            scored = [pair for each in scored for pair in _by_category(each)]
        rows = _rows("", scored, rules)
        for category, members in groups(scored, "category").items():
            rows += _rows(f"{category} ", members, rules)
        return rows


def _by_category(pair: "tuple[Item, Scored]") -> ScoredItems:
    item, scored = pair
    categories = str(item.fields.get("category") or "").split(",")
    return [
        (replace(item, fields={**item.fields, "category": each}), scored) for each in categories
    ]


def _rows(prefix: str, scored: ScoredItems, rules: str) -> list[Score]:
    pictures: dict[object, np.ndarray] = {}
    for item, each in scored:
        true, said = true_answer(item), each.parsed
        missed = true == "yes" and (said == "no" if rules == "lmms-eval" else said != "yes")
        counted = true if rules == "lmms-eval" else said
        found = [
            said == true == "yes",
            said == "yes" != true,
            missed,
            said == true,
            counted == "yes",
            True,
        ]
        picture = item.fields.get("image_source") or item.id
        pictures[picture] = pictures.get(picture, np.zeros(6)) + np.array(found, float)
    units = np.array(list(pictures.values()))
    sums, drawn = units.sum(0), resampled_sums(units)
    rows = []
    for name, rate in _RATES.items():
        value = 100 * float(rate(sums))
        if name == "accuracy" and len(units) == len(scored):
            low, high = (100 * end for end in mean_interval([*units[:, 3]]))
        else:
            low, high = percentiles(100 * rate(drawn))
            low, high = widened((low, high), value, 100, len(units))
        rows.append(Score(prefix + name, value, low, high, len(scored), unparsed_in(scored)))
    return rows
