"""MMHal-Bench (Sun 2023): a judge rates answers from 0 to 6; below 3 they hallucinate."""

import re
from dataclasses import dataclass, replace
from typing import Any

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeRequest
from minicpmv.evaluate.metrics.contract import Score, Scored, ScoredItems, check_rules
from minicpmv.evaluate.metrics.plain import references
from minicpmv.evaluate.metrics.summaries import breakdown, mean_row, value_of

MOST, HALLUCINATED_BELOW = 6, 3
_TRIES, _WARMER, _MAX_TOKENS = 3, 0.5, 1024
_RATING = re.compile(r"rating\W{0,6}(\d+)", re.IGNORECASE)

_PROMPT = """\
Judge what a model has answered to a question about a picture: how informative the answer is, and \
whether it hallucinates. It hallucinates where it claims something (a thing, an action, a number, \
a place, a feeling) that neither is in the picture nor follows from it. You know the picture by a \
list of what is in it, and by an answer that a person has written. That answer is true, but may \
leave things out; be careful to call something invented that it does not mention. Saying less than \
it, being unsure, general knowledge and sound reasoning are no hallucinations. A wrong number, a \
wrong place and a thing that is not there are.

Explain your judgement in a few sentences first. End with one line of this form:
Rating: N
where N is one of
6: very informative, with good reasoning, no hallucination
5: very informative, no hallucination
4: somewhat informative, no hallucination
3: not informative, no hallucination
2: very informative, but hallucinates
1: somewhat informative, but hallucinates
0: not informative, and hallucinates

In the picture: {content}

Question: {question}

Answer of a person: {true}

Answer of the model: {answer}"""


def rating_of(reply: str) -> int | None:
    """The one rating that a reply gives; None where it gives none, several, or not 0 to 6."""
    given = {int(number) for number in _RATING.findall(reply)}
    return given.pop() if len(given) == 1 and max(given) <= MOST else None


@dataclass(frozen=True)
class MMHalBench:
    """The mean rating, and the share of answers that hallucinate, or do not: cards give either.

    Fields:
        by: fields of the items that the ratings are broken down by.
    """

    name: str = ""
    by: tuple[str, ...] = ("question_type",)

    def score(self, item: Item, answer: str, rules: str) -> Scored:
        check_rules(rules)
        return Scored(None)

    def question(self, item: Item, answer: str, scored: Scored) -> JudgeRequest:
        content: Any = item.fields.get("image_content", "")
        text = _PROMPT.format(
            content=", ".join(map(str, content)) if isinstance(content, list) else content,
            question=item.question,
            true=references(item)[0],
            answer=answer,
        )
        return JudgeRequest(
            [{"role": "user", "content": text}],
            _MAX_TOKENS,
            tries=_TRIES,
            warmer=_WARMER,
            valid=lambda reply: rating_of(reply) is not None,
        )

    def judged(self, item: Item, answer: str, reply: str) -> Scored:
        rating = rating_of(reply)
        assert rating is not None
        return Scored(rating / MOST, str(rating), {"rating": rating, "said": reply})

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        """An answer without a verdict counts as one of rating 0."""

        def rated(name: str, members: ScoredItems) -> Score:
            return mean_row(name, members, scale=MOST, unit="points")

        wrong = [
            (item, replace(each, value=float(value_of(each) * MOST < HALLUCINATED_BELOW)))
            for item, each in scored
        ]
        right = [(item, replace(each, value=1 - value_of(each))) for item, each in wrong]
        rows = [
            rated(self.name, scored),
            mean_row("without hallucination", right),
            mean_row("hallucination", wrong, less_is_better=True),
        ]
        unread = sum(each.value is None for _, each in scored)
        rows[1:] = [replace(row, unparsed=unread) for row in rows[1:]]
        return [*rows, *breakdown(scored, self.by, rated, rows)]
