"""Metrics for data of one's own: exact match, contains, F1 of words, character error rate, relaxed
accuracy, yes or no. The rules change only relaxed accuracy.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minicpmv.evaluate.intervals import percentiles, resampled_sums

from .contract import Score, Scored, ScoredItems, check_rules
from .distance import edit_distance
from .summaries import breakdown, check_some, mean_row, widened

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def references(item: "Item") -> Sequence[str]:
    """The item's answers.

    Raises:
        ValueError: it has none.
    """
    if not item.answers:
        raise ValueError(
            f"Item {item.id!r} has 0 answers to compare with; expected at least 1. "
            "The references of this split may not be public."
        )
    return item.answers


def on_one_line(text: str) -> str:
    """The text with single spaces, as which line breaks count as well."""
    return " ".join(text.split())


@dataclass(frozen=True)
class MeanMetric:
    """The mean over items, and over the groups of these fields.

    Fields:
        by: fields of the items that the table is broken down by.
    """

    name: str = ""
    by: tuple[str, ...] = ("split", "l2-category", "category")

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", tuple(self.by))  # TOML gives lists

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        headline = mean_row(self.name, scored)
        return [headline, *breakdown(scored, self.by, taken=[headline])]


@dataclass(frozen=True)
class ExactMatch(MeanMetric):
    """The answer is one of the references, but for white space at the ends and in between.

    Fields:
        ignore_case, ignore_punctuation: compare without.
    """

    ignore_case: bool = False
    ignore_punctuation: bool = False

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        said = self._plain(answer)
        return Scored(float(any(said == self._plain(each) for each in references(item))), said)

    def _plain(self, text: str) -> str:
        if self.ignore_punctuation:
            text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
        text = on_one_line(text)
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True)
class Contains(MeanMetric):
    """One of the references stands somewhere in the answer, in whatever case."""

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        said = on_one_line(answer).casefold()
        return Scored(float(any(on_one_line(each).casefold() in said for each in references(item))))


def tokens(text: str) -> list[str]:
    """Words in lower case without punctuation and articles (SQuAD, Rajpurkar 2016); every Chinese
    or Japanese character is a word."""
    text = "".join(c for c in text.lower() if not unicodedata.category(c).startswith(("P", "S")))
    text = re.sub(r"([\u3040-\u30ff\u3400-\u9fff])", r" \1 ", text)
    return _ARTICLES.sub(" ", text).split()


@dataclass(frozen=True)
class TokenF1(MeanMetric):
    """F1 of the words that the answer and the nearest reference share (SQuAD, Rajpurkar 2016)."""

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        return Scored(max(_f1(tokens(answer), tokens(each)) for each in references(item)))


def _f1(said: Sequence[str], true: Sequence[str]) -> float:
    if not said or not true:
        return float(said == true)
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true))


@dataclass(frozen=True)
class CharacterErrorRate(MeanMetric):
    """Edit distance over the number of true characters, of all answers together; can exceed 1. Of
    several references the nearest counts.

    Fields:
        ignore_case: compare without.
    """

    ignore_case: bool = False

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        said = self._plain(answer)
        errors, length = min(
            ((edit_distance(said, true), len(true)) for true in map(self._plain, references(item))),
            key=lambda pair: pair[0] / max(1, pair[1]),
        )
        detail: Mapping[str, Any] = {"errors": errors, "characters": length}
        return Scored(errors / max(1, length), said, detail)

    def _plain(self, text: str) -> str:
        text = on_one_line(text)
        return text.casefold() if self.ignore_case else text

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        headline = _error_rate(self.name, scored)
        return [headline, *breakdown(scored, self.by, _error_rate, [headline])]


def _error_rate(name: str, scored: ScoredItems) -> Score:
    check_some(scored)
    pairs = [(each.detail["errors"], each.detail["characters"]) for _, each in scored]
    drawn = resampled_sums(pairs)
    value = 100 * sum(e for e, _ in pairs) / max(1, sum(c for _, c in pairs))
    low, high = percentiles(100 * drawn[:, 0] / drawn[:, 1].clip(1))
    low, high = widened((low, high), value, max(100.0, value), len(pairs))
    return Score(name, value, low, high, len(pairs), less_is_better=True)
