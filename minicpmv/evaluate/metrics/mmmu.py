"""MMMU (Yue 2024): college subjects, with options and without."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .contract import Score, Scored, ScoredItems, check_rules
from .letters import infer_option
from .mmmu_text import is_right, read_letter, read_open
from .plain import MeanMetric, references
from .summaries import breakdown, mean_row

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

_VALIDATION = ("validation", "val")
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Pharmacy", "Public_Health"),
        "Diagnostics_and_Laboratory_Medicine",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics"),
        *("Energy_and_Power", "Materials", "Mechanical_Engineering"),
    ),
}
_DOMAIN_OF = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}


@dataclass(frozen=True)
class MMMU(MeanMetric):
    """Accuracy on the validation split; other splits are left out where it is there.

    VLMEvalKit makes an open question one of two options, of which A is the reference and B "Other
    Answers". lmms-eval uses the parser of MMMU's authors and draws an option where that reads
    none; here such an answer is not read.
    """

    by: tuple[str, ...] = ("domain", "subject", "l2-category", "category")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        true = references(item)
        if rules == "lmms-eval":
            return _by_authors(item, answer.strip())
        right = true[0] if re.fullmatch("[A-Z]", true[0]) else "A"
        letter = infer_option(answer, self.as_choice(item).options, rules)
        return Scored(None if letter is None else float(letter == right), letter)

    def as_choice(self, item: "Item") -> "Item":
        """VLMEvalKit's two options of an open question."""
        if item.options:
            return item
        true = references(item)
        reference = true[0] if len(true) == 1 else str([*true])
        return replace(item, options={"A": reference, "B": "Other Answers"})

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        validation = [pair for pair in scored if _split(pair[0]) in _VALIDATION]
        placed = [(_with_subject(item), each) for item, each in validation or scored]
        headline = mean_row(self.name, placed)
        rows = [headline]
        for field in self.by:  # a field whose values all have rows says nothing new
            more = breakdown(placed, (field,))
            if not {row.name for row in more} <= {row.name for row in rows}:
                rows += [row for row in more if row.name not in {each.name for each in rows}]
        return rows


def _by_authors(item: "Item", answer: str) -> Scored:
    open_question = item.fields.get("question_type", "") == "open" or not item.options
    if not answer:
        return Scored(None)
    if not open_question:
        letter = read_letter(answer, item.options)
        return Scored(None if letter is None else float(letter in references(item)), letter)
    said = read_open(answer)
    return Scored(float(is_right(said, references(item))), " | ".join(sorted(map(str, said))))


def _split(item: "Item") -> str:
    split = item.fields.get("split")
    return str(split) if split else item.id.partition("_")[0]


def _with_subject(item: "Item") -> "Item":
    """With the subject and domain that an id as validation_Art_Theory_12 names."""
    found = re.fullmatch(r"[^_]+_(.+?)_\d+", str(item.fields.get("id") or item.id))
    subject = found[1] if found else ""
    named = {"subject": subject, "domain": _DOMAIN_OF.get(subject, "")}
    return replace(item, fields={**item.fields, **named})
