"""Benchmarks of several pictures: Mantis-Eval, MIRB, and the Interleave bench with MathVerse-mv and
SciVerse-mv. All three come from lmms-eval, so that all rules are the same.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .contract import Score, Scored, ScoredItems, check_rules
from .mmmu_text import is_right, read_open
from .plain import MeanMetric, references
from .rouge import rouge_l
from .summaries import breakdown, groups, mean_of_groups, mean_row
from .vqa_text import strip_punctuation

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item


@dataclass(frozen=True)
class Mantis(MeanMetric):
    """Mantis-Eval (Jiang 2024): the first letter after "final answer:" and the like names the
    option; a short answer must be the reference, in any case.

    "The answer" without a colon begins with T, so that it picks no option.
    """

    by: tuple[str, ...] = ("question_type", "category", "data_source")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        answer = answer.strip()
        said = _after_announcement(answer)
        reference = references(item)[0].strip("()\n ")
        if item.fields.get("question_type") == "short-answer" or not item.options:
            return Scored(float(said.lower() == reference.lower()), said)
        true = next((c for c in reference if c.isalpha()), reference[:1]).upper()
        if re.match(r"Answer: [A-Z]", said):
            said = said[len("Answer: ") :]
        letter = next((c.upper() for c in said if c.isalpha()), "")
        if letter and letter in item.options:
            return Scored(float(letter == true), letter)
        text = re.sub(rf"^({true}\.|{true}:|\({true}\))", "", item.options.get(true, ""))
        return Scored(1.0, true) if answer == text.strip() else Scored(None)


def _after_announcement(answer: str) -> str:
    for announcement in ("final answer:", "the answer is", "answer:"):
        place = answer.lower().find(announcement)
        if place >= 0:
            return answer[place + len(announcement) :].strip()
    return answer


# MIRB

_MIRB_GROUPS = {
    "Knowledge": ("food", "sightseeing"),
    "Reasoning": ("codeu", "plot_code", "analogy", "3d_scene"),
    "Perception": ("image_jigsaw", "count", "attribute"),
    "Multi-Hop": ("visual_chain", "arxiv"),
}


@dataclass(frozen=True)
class MIRB(MeanMetric):
    """MIRB (Zhao 2024): the letter alone, or with a period at the start; free answers by the parser
    of MMMU. The headline is the mean over items; groups are the means of their subsets' means."""

    by: tuple[str, ...] = ("subset",)

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        answer = answer.strip()
        true = references(item)[0]
        if not answer:
            return Scored(None)
        if true in ("A", "B", "C", "D", "E"):
            found = re.match(r"([A-Z])\.", answer)
            letter = found[1] if found else answer
            if not re.fullmatch("[A-Z]", letter):
                return Scored(None)
            return Scored(float(letter == true), letter)
        said = read_open(answer)
        return Scored(float(is_right(said, references(item))), " | ".join(sorted(map(str, said))))

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        headline = mean_row(self.name, scored)
        subsets = groups(scored, "subset")
        rows = [headline]
        for name, members in _MIRB_GROUPS.items():
            found = {subset: subsets[subset] for subset in members if subset in subsets}
            if len(found) == len(members):
                rows.append(mean_of_groups(name, found))
        return [*rows, *breakdown(scored, self.by, taken=rows)]


# Interleave

_LONGEST = 512  # characters of an answer that ROUGE-L looks at


@dataclass(frozen=True)
class Interleave(MeanMetric):
    """LLaVA-NeXT-Interleave-Bench (Li 2024): the same option letter A to E, anywhere as a word of
    its own in any case, so that "a dog" is A; ROUGE-L F for free answers."""

    by: tuple[str, ...] = ("sub_task", "question_type")

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        answer = answer.strip()
        true = references(item)[0]
        if item.fields.get("question_type") == "open-ended":
            said = answer[:_LONGEST]
            return Scored(rouge_l(said, true) if said.strip(" .") else 0.0)
        said = _letter_or_text(answer)
        right = said == _letter_or_text(true)
        read = bool(re.fullmatch("[A-E]", said)) or right
        return Scored(float(right) if read else None, said)


def _letter_or_text(answer: str) -> str:
    found = re.match(r"([A-E])\.\s*(.+)$", answer.strip(), re.IGNORECASE)
    if found:
        return found[1].upper()
    text = strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    for mark in "'\")(":
        text = text.strip(mark)
    text = text.strip().lower()
    found = re.search(r"\b([A-E])\b", text, re.IGNORECASE)
    return found[1].upper() if found else text
