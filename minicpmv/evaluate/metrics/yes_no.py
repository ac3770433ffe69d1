"""Reading a yes or a no in an answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .contract import Scored, check_rules
from .plain import MeanMetric, references
from .vqa_text import strip_punctuation

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item


def yes_or_no(answer: str) -> str | None:
    """VLMEvalKit's reading: one of the words yes and no stands in the answer and the other does
    not."""
    words = strip_punctuation(answer.lower()).split()
    found = [word for word in ("yes", "no") if word in words]
    return found[0] if len(found) == 1 else None


def begins_yes_or_no(answer: str) -> str | None:
    """lmms-eval's reading for MME: yes or no among the first four characters without periods, or
    the letter y or n alone. "Not at all" and "Note" say no."""
    text = answer.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text)
    return next((word for word in ("yes", "no") if word in text[:4]), None)


def true_answer(item: "Item") -> str:
    """yes or no, whatever way the data writes it.

    Raises:
        ValueError: the reference is neither.
    """
    text = references(item)[0].strip().strip(".").lower()
    found = {"yes": "yes", "no": "no", "1": "yes", "0": "no", "true": "yes", "false": "no"}
    if text not in found:
        raise ValueError(f"Item {item.id!r} has the answer {text!r}; expected yes or no.")
    return found[text]


def score_yes_or_no(item: "Item", said: str | None) -> Scored:
    """Right, wrong, or not read."""
    return Scored(None if said is None else float(said == true_answer(item)), said)


@dataclass(frozen=True)
class YesNo(MeanMetric):
    """Accuracy; lmms-eval's rules are those of its MME."""

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        read = begins_yes_or_no if rules == "lmms-eval" else yes_or_no
        return score_yes_or_no(item, read(answer))
