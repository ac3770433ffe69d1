"""What is to be decided. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal, get_args

from ..errors import ArgumentError, short

Kind = Literal["choice", "yesno", "score"]
Orders = Literal["cyclic", "all"]

MAX_ORDERS = 24  # all orders of four choices
YES_NO = {
    "yes": ("yes", "Yes", "yes.", "Yes."),
    "no": ("no", "No", "no.", "No."),
}
_FORM = "a list of texts, or a mapping of labels to the texts that count as them"


@dataclass(frozen=True)
class Question:
    """A question with its possible answers; made by `Question.of`, which checks it.

    Fields:
        text: as it is asked; empty where the conversation before it asks.
        kind: "yesno" has two labels, the first of which is yes; "score" has levels, the lowest
            first.
        spellings: of each label, in their order, the texts of an answer that count as it.
        list_choices: whether the labels are written below the question.
        average_orders: in which orders they are listed, one after the other; the probabilities are
            averaged. None: as they are.
        descriptions: what is written behind a label, where labels are listed.
    """

    text: str
    kind: Kind
    spellings: Mapping[str, tuple[str, ...]]
    list_choices: bool = False
    average_orders: Orders | None = None
    descriptions: Mapping[str, str] | None = None

    @classmethod
    def of(
        cls,
        text: str,
        choices: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        *,
        kind: Kind = "choice",
        list_choices: bool = False,
        average_orders: bool | Orders = False,
        descriptions: Mapping[str, str] | None = None,
    ) -> "Question":
        """A question that can be decided.

        Args:
            choices: labels, or labels with the texts that count as them. None, for yes or no alone,
                means yes and no with and without a capital and a full stop.
            average_orders: True takes all orders where there are at most 24, else each label at
                each place once ("cyclic").

        Raises:
            ArgumentError: choices are missing, empty or given twice, or an argument would have no
                effect.
        """
        if kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise ArgumentError(f"`kind` is {short(kind)}; known are {known}.")
        if choices is None:
            if kind != "yesno":
                raise ArgumentError("`choices` is missing; give two texts or more.")
            choices = YES_NO
        spellings = _spellings(choices)
        if len(spellings) < 2 or (kind == "yesno" and len(spellings) > 2):
            wanted = "two, yes and no" if kind == "yesno" else "two at least"
            found = "one label" if len(spellings) == 1 else f"{len(spellings)} labels"
            raise ArgumentError(f"`choices` has {found}; expected {wanted}.")
        if descriptions and not list_choices:
            raise ArgumentError("`descriptions` would have no effect without `list_choices=True`.")
        unknown = sorted(set(descriptions or {}) - set(spellings))
        if unknown:
            raise ArgumentError(f"`descriptions` names {short(unknown[0])}, which is no choice.")
        orders = _orders(average_orders, len(spellings), list_choices)
        return cls(text, kind, spellings, bool(list_choices), orders, descriptions or None)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.spellings)

    def orders(self) -> list[tuple[str, ...]]:
        """The orders in which the labels are listed."""
        labels = self.labels
        if self.average_orders is None:
            return [labels]
        if self.average_orders == "all":
            return list(permutations(labels))
        return [(*labels[shift:], *labels[:shift]) for shift in range(len(labels))]

    def written(self, order: Sequence[str]) -> str:
        """The question, with the labels in this order where they are listed."""
        if not self.list_choices:
            return self.text
        told = self.descriptions or {}
        lines = [f"{label}: {told[label]}" if told.get(label) else label for label in order]
        start = [self.text] if self.text else []
        return "\n".join([*start, "Answer with one of these and nothing else:", *lines])


def _spellings(choices: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(choices, str) or not isinstance(choices, Sequence | Mapping):
        raise ArgumentError(f"`choices` is {short(choices)}; it must be {_FORM}.")
    if isinstance(choices, Mapping):
        pairs = [(k, (v,) if isinstance(v, str) else v) for k, v in choices.items()]
    else:
        pairs = [(label, (label,)) for label in choices]
    found: dict[str, tuple[str, ...]] = {}
    owners: dict[str, str] = {}
    for label, texts in pairs:
        label = _text(label)
        if label in found:
            raise ArgumentError(f"`choices` has {short(label)} twice; each label comes once.")
        if not isinstance(texts, Sequence) or not texts:
            raise ArgumentError(f"`choices[{label!r}]` is {short(texts)}; it must be texts.")
        found[label] = tuple(_text(text) for text in texts)
        for text in found[label]:
            if text in owners:
                raise ArgumentError(
                    f"`choices` has the answer {short(text)} twice, as {short(owners[text])} and "
                    f"as {short(label)}; each counts as one."
                )
            owners[text] = label
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ArgumentError(f"`choices` has {short(value)}; a choice is a text.")
    if not value.strip():
        raise ArgumentError(f"`choices` has {value!r}, which is blank. Leave it out.")
    return value.strip()


def _orders(asked: Any, number: int, list_choices: bool) -> Orders | None:
    if asked is False or asked is None:
        return None
    if asked not in (True, *get_args(Orders)):
        raise ArgumentError(
            f"`average_orders` is {short(asked)}; it must be True, False, 'cyclic' or 'all'."
        )
    if not list_choices:
        raise ArgumentError(
            "`average_orders` would have no effect without `list_choices=True`: the choices are "
            "not in the prompt."
        )
    fits = math.factorial(number) <= MAX_ORDERS
    if asked == "all" and not fits:
        raise ArgumentError(
            f"`average_orders='all'` of {number} choices would be {math.factorial(number):,} "
            f"prompts; at most {MAX_ORDERS} are asked. Pass `average_orders='cyclic'`."
        )
    if asked is True:
        asked = "all" if fits else "cyclic"
    if asked == "cyclic" and number > MAX_ORDERS:
        raise ArgumentError(
            f"`average_orders` of {number} choices would be {number} prompts; at most {MAX_ORDERS} "
            "are asked. Leave it out, or give fewer choices."
        )
    found: Orders = asked
    return found
