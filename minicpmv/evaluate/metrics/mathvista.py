"""MathVista (Lu 2024) as far as rules go: comparing whole numbers, decimals, options and text.

In all programs a judge first takes the short answer out of a long one; `compare` then says whether
what it took out is right. Without a judge an answer is compared as it is, and one that would have
to be taken out of something longer is not read.
"""

import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .contract import Scored, check_rules
from .distance import edit_distance
from .letters import infer_option
from .plain import MeanMetric, references

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

_DIGITS = {"integer": int, "float": float}


@dataclass(frozen=True)
class MathVista(MeanMetric):
    """Accuracy, and by task and skill."""

    by: tuple[str, ...] = ("task", "skills", "question_type", "answer_type")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        if rules == "lmms-eval":
            short = _short_already(item, answer.strip())
            return Scored(None) if short is None else compare(item, short, rules)
        return compare(item, answer, rules)


def options_of(item: "Item") -> dict[str, str]:
    """Letter -> text, also where the data keeps them as a list in `choices`."""
    if item.options:
        return dict(item.options)
    choices = item.fields.get("choices") or ()
    if isinstance(choices, str):
        choices = literal_eval(choices)
    return {chr(ord("A") + place): str(text) for place, text in enumerate(choices)}


def is_choice(item: "Item") -> bool:
    """Whether an option is to be picked."""
    kind = item.fields.get("question_type")
    return kind == "multi_choice" if kind else bool(options_of(item))


def fetched(item: "Item", answer: str, rules: str) -> bool:
    """Whether VLMEvalKit takes the answer as it is and asks no judge: one that picks an option, or
    a number that is right, but for 0, which counts as nothing there."""
    check_rules(rules)
    if is_choice(item):
        return infer_option(answer, options_of(item), rules) is not None
    scored = compare(item, answer, rules)
    is_number = item.fields.get("answer_type") in _DIGITS
    return scored.value == 1.0 and not (is_number and float(scored.parsed or 0) == 0)


def compare(item: "Item", said: str, rules: str) -> Scored:
    """Whether an answer, or what a judge took out of it, is right.

    VLMEvalKit compares text and lists with nothing: none is ever right but the text "None".
    lmms-eval rounds decimals as the item says, cuts decimals off whole numbers, and makes of any
    text the nearest option; an empty one is not guessed here.
    """
    check_rules(rules)
    if rules == "lmms-eval":
        return _normalised_and_compared(item, said)
    true = references(item)[0]
    if is_choice(item):
        letter = infer_option(said, options_of(item), rules)
        return Scored(None if letter is None else float(letter == _true_letter(item)), letter)
    kind = item.fields.get("answer_type")
    if kind not in _DIGITS:
        return Scored(float(true == "None"), said)
    try:
        number, right = _DIGITS[kind](said), _DIGITS[kind](true)
    except ValueError:
        return Scored(None)
    return Scored(float(number == right), str(number))


def _true_letter(item: "Item") -> str:
    """As the data says, else the letter of the option whose text is the reference."""
    if item.fields.get("answer_option"):
        return str(item.fields["answer_option"])
    true = references(item)[0]
    return next((letter for letter, text in options_of(item).items() if text == true), true)


# lmms-eval


def _short_already(item: "Item", answer: str) -> str | None:
    """An answer that no judge is asked about: the text of an option, or a number."""
    if is_choice(item) and answer in options_of(item).values():
        return answer
    kind = item.fields.get("answer_type")
    if kind not in _DIGITS:
        return None
    try:
        return str(_DIGITS[kind](answer))
    except ValueError:
        return None


def _normalised_and_compared(item: "Item", said: str) -> Scored:
    true = references(item)[0]
    if is_choice(item):
        options = options_of(item)
        if not said.strip():
            return Scored(None)
        text = _option_of(said.strip(), [*options], [*options.values()])
        # The reference may be the option's letter or its text.
        return Scored(float(text.strip() in (true.strip(), options.get(true, "").strip())), text)
    number = _number_as_asked(said, item.fields)
    if number is None:
        return Scored(None)
    return Scored(float(number.strip() == true.strip()), number)


def _option_of(said: str, letters: Sequence[str], texts: Sequence[str]) -> str:
    found = re.search(r"\(([a-zA-Z])\)", said)
    said = found[1].upper() if found else said
    if said in letters:
        return texts[letters.index(said)]
    return min(texts, key=lambda text: edit_distance(said, text))


def _number_as_asked(said: str, fields: Mapping[str, Any]) -> str | None:
    """Text as it is; None where a number is wanted and there is none."""
    kind = fields.get("answer_type")
    try:
        if kind == "integer":
            return str(int(float(said)))
        if kind == "float":
            return str(round(float(said), int(float(fields.get("precision") or 0))))
    except (ValueError, OverflowError):
        return None
    return said
