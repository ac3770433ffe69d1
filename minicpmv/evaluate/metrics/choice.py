"""Questions with lettered options: plain accuracy, and MMBench's in every order of the options."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import letters_lmms
from .contract import Score, Scored, ScoredItems, check_rules
from .letters import infer_option
from .plain import MeanMetric, references
from .summaries import breakdown, check_some, groups, mean_of_groups, mean_row

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

ORDERS = 1_000_000  # the index of a question in its k-th order is that of the first + k * this


def true_letter(item: "Item") -> str:
    """The letter of the right option."""
    return references(item)[0].strip().strip("()").upper()


@dataclass(frozen=True)
class MultipleChoice(MeanMetric):
    """Accuracy of the option that an answer picks.

    Fields:
        reader: how lmms-eval reads the letter in this benchmark.
        mean_of: with lmms-eval's rules the headline is the mean over the groups of this field.
    """

    by: tuple[str, ...] = ("split", "l2-category", "category", "l2_category", "sub_task")
    reader: str = "generic"
    mean_of: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reader not in letters_lmms.READERS:
            known = ", ".join(letters_lmms.READERS)
            raise ValueError(f"`reader` is {self.reader!r}; expected one of {known}.")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        open_question = true_letter(item) not in ("A", "B", "C", "D")
        if self.reader == "realworldqa" and rules == "lmms-eval" and open_question:
            said = answer.lower().strip().rstrip(".")
            return Scored(float(said == references(item)[0].strip().lower()), said)
        letter = self.letter(answer, item.options, rules)
        if letter is None:
            return Scored(None)
        return Scored(float(letter == true_letter(item)), letter)

    def letter(self, answer: str, options: Mapping[str, str], rules: str) -> str | None:
        """What an answer picks; None where it could not be read."""
        if rules == "lmms-eval":
            return letters_lmms.READERS[self.reader](answer.strip(), options)
        return infer_option(answer, options, rules)

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        headline = mean_row(self.name, scored)
        if self.mean_of and rules == "lmms-eval":
            other_name = self.mean_of.replace("_", "-")
            found = groups(scored, self.mean_of) or groups(scored, other_name)
            headline = mean_of_groups(self.name, found) if found else headline
        return [headline, *breakdown(scored, self.by, taken=[headline])]


@dataclass(frozen=True)
class CircularChoice(MultipleChoice):
    """MMBench (Liu 2023): a question is right if it is in every order of its options. Where no
    order is wrong and one could not be read, the question counts as not read.

    An item's id is a number; its remainder by a million, or the field `g_index`, is its question.
    """

    reader: str = "mmbench"

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        check_some(scored)
        questions: dict[int, list[tuple[Item, Scored]]] = {}
        for pair in scored:
            questions.setdefault(_question_of(pair[0]), []).append(pair)
        # By the first order; a question without it is not asked, as in all three programs.
        asked = {
            number: _first(number, members)
            for number, members in questions.items()
            if any(_number(item) == number for item, _ in members)
        }
        together = [(first[0], _all_right(questions[number])) for number, first in asked.items()]
        if not together:
            raise ValueError("No question is there in its first order, with an id below 1000000.")
        missing = sum(
            len(questions[number]) < len(first[0].options) for number, first in asked.items()
        )
        name = f"{self.name} ({missing} of {len(asked)} not in every order)" if missing else ""
        headline = mean_row(name or self.name, together)
        rows = [headline, *breakdown(together, self.by, taken=[headline])]
        return [*rows, mean_row("first order alone", list(asked.values()))]


def _first(number: int, members: ScoredItems) -> "tuple[Item, Scored]":
    return next(pair for pair in members if _number(pair[0]) == number)


def _all_right(orders: ScoredItems) -> Scored:
    values = [each.value for _, each in orders]
    if any(value is not None and value < 1 for value in values):
        return Scored(0.0)
    return Scored(None if None in values else 1.0)


def _number(item: "Item") -> int:
    if not re.fullmatch(r"\d+", item.id):
        raise ValueError(
            f"Item {item.id!r} has no number for an id, by which the orders of the options of one "
            f"question are found; expected that of the first + k * {ORDERS}."
        )
    return int(item.id)


def _question_of(item: "Item") -> int:
    group = item.fields.get("g_index")
    return _number(item) % ORDERS if group in (None, "") else int(float(str(group)))
