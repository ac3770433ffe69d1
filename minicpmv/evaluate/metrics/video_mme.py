"""Video-MME (Fu 2024): three questions with four options about each of 900 videos."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .choice import true_letter
from .contract import Score, Scored, ScoredItems, check_rules
from .letters import infer_option
from .letters_lmms import most_likely_letter
from .summaries import breakdown, clustered_row

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item

# Taken out of an answer before its letter is looked for. Two are what a missing comma made of two.
_BEGINNINGS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is" + "The correct option is",
    "Best answer:" + "Best option:",
    "Answer:",
    "Option:",
)
_BY = ("duration", "domain", "sub_category", "task_type")


def first_capital(answer: str) -> str | None:
    """VLMEvalKit's reading: the first A, B, C or D after the beginnings are taken out, also within
    a word: "According to" is A, "Because" is B, "The correct option is B" is B."""
    answer = answer.strip()
    for beginning in _BEGINNINGS:
        answer = answer.replace(beginning, "")
    found = re.search("[ABCD]", answer)
    return found[0] if found else None


@dataclass(frozen=True)
class VideoMME:
    """Accuracy, in all and by duration, domain and kind of task. The questions of a video are drawn
    again together."""

    name: str = "video-mme"

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        check_rules(rules)
        if rules == "lmms-eval":
            letter = most_likely_letter(answer.strip(), "ABCD")
        else:
            texts = {
                key: text.removeprefix(f"{key}.").strip(". \n")
                for key, text in item.options.items()
            }
            letter = first_capital(answer) or infer_option(answer, texts, rules)
        if letter is None:
            return Scored(None)
        return Scored(float(letter == true_letter(item)), letter)

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        def row(name: str, members: ScoredItems) -> Score:
            return clustered_row(name, members, _video)

        headline = row(self.name, scored)
        return [headline, *breakdown(scored, _BY, row, [headline])]


def _video(item: "Item") -> object:
    return item.fields.get("videoID") or item.fields.get("video") or item.video or item.id
