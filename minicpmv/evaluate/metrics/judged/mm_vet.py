"""MM-Vet (Yu 2023): a judge gives every answer 0.0 to 1.0, in tenths."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeRequest
from minicpmv.evaluate.metrics.contract import Score, Scored, ScoredItems, check_rules
from minicpmv.evaluate.metrics.plain import references
from minicpmv.evaluate.metrics.summaries import mean_row

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
_TRIES, _WARMER, _MAX_TOKENS = 5, 0.5, 8

_PROMPT = """\
Grade an answer about a picture against the true answer, with a number from 0.0 (all wrong) to 1.0 \
(all right) in steps of 0.1. In the true answer, <AND> stands between things that must all be in \
the answer for 1.0; a part of them is worth their share. <OR> stands between things of which any \
one is enough for 1.0. Longer explanations are graded by how much of what matters they say. The \
last column of the table is the grade; write the missing one and nothing else.

Question | True answer | Answer | Grade
--- | --- | --- | ---
Which fruits lie on the plate? | apple <AND> pear | grapes | 0.0
Which fruits lie on the plate? | apple <AND> pear | an apple | 0.5
Which fruits lie on the plate? | apple <AND> pear | apple or plum | 0.5
Which fruits lie on the plate? | apple <AND> pear | a pear next to an apple | 1.0
What is the man called? | Tom <OR> Thomas | He is Tom. | 1.0
What is funny about it? | The sign forbids dogs, and a dog holds it in its mouth. | A dog \
carries a sign. | 0.4
What is funny about it? | The sign forbids dogs, and a dog holds it in its mouth. | Dogs are not \
allowed here, and it is a dog that carries the sign around. | 1.0
{question} | {true} | {answer} |"""


def grade_of(reply: str) -> float | None:
    """The grade at the beginning of a reply; None where it is none of 0.0 to 1.0."""
    first = reply.strip().strip("|*` \n").split()
    if not first or not re.fullmatch(r"\d*\.?\d+", first[0].rstrip(".,;|")):
        return None
    grade = float(first[0].rstrip(".,;|"))
    return round(grade, 1) if 0 <= grade <= 1 else None


@dataclass(frozen=True)
class MMVet:
    """100 times the mean grade, and that of every capability that a question needs."""

    name: str = ""

    def score(self, item: Item, answer: str, rules: str) -> Scored:
        check_rules(rules)
        return Scored(None)

    def question(self, item: Item, answer: str, scored: Scored) -> JudgeRequest:
        true = references(item)[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
        text = _PROMPT.format(question=_cell(item.question), true=_cell(true), answer=_cell(answer))
        return JudgeRequest(
            [{"role": "user", "content": text}],
            _MAX_TOKENS,
            tries=_TRIES,
            warmer=_WARMER,
            valid=lambda reply: grade_of(reply) is not None,
        )

    def judged(self, item: Item, answer: str, reply: str) -> Scored:
        return Scored(grade_of(reply), reply)

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        return [mean_row(self.name, scored), *self._of_capabilities(scored)]

    def _of_capabilities(self, scored: ScoredItems) -> Iterator[Score]:
        for capability in CAPABILITIES:
            members = [pair for pair in scored if capability in capabilities(pair[0])]
            if members:
                yield mean_row(capability, members)


def capabilities(item: Item) -> set[str]:
    """What a question needs: `category` in VLMEvalKit's file, `capability` on the hub."""
    given = item.fields.get("category", item.fields.get("capability", ""))
    listed = given if isinstance(given, list | tuple) else re.split(r"[,_\s]+", str(given))
    return {str(each).strip() for each in listed}


def _cell(text: str) -> str:
    """Text that stays within its column."""
    return " ".join(text.replace("|", "/").split())
