"""LLaVA-Bench in the wild (Liu 2023): a judge grades the answer beside GPT-4's, both from 1 to 10.

The score is relative: 100 times the mean grade of the answers over that of GPT-4's, and may exceed
100. Other languages have the same form; questions and answers are in theirs, the judge's
instructions in English.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicpmv.evaluate.intervals import percentiles, resampled_sums
from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeRequest
from minicpmv.evaluate.metrics.contract import Score, Scored, ScoredItems, check_rules
from minicpmv.evaluate.metrics.summaries import check_some, groups, unparsed_in

_TRIES, _TEMPERATURE, _MAX_TOKENS = 3, 0.2, 1024  # the explanation that follows is cut, if need be
_MOST = 10

_PROMPT = """\
[What the picture shows]
{caption}

[Question]
{question}

[Assistant 1]
{reference}
[End of Assistant 1]

[Assistant 2]
{answer}
[End of Assistant 2]

[Instructions]
Two assistants have answered a question about a picture, which you know by the description above. \
Judge how helpful, relevant, accurate and detailed each answer is, and give each a grade from 1 to \
10, higher for better. The order in which they stand must not matter. Write the grades of \
Assistant 1 and Assistant 2 on the first line: two numbers with a space between, and nothing else. \
Explain them from the second line on."""


def grades_of(reply: str) -> tuple[float, float] | None:
    """The two numbers of the first line; None where it has others, or not from 1 to 10."""
    first = reply.strip().partition("\n")[0]
    words = re.sub(r"[,;/|]", " ", first).split()
    if len(words) != 2:
        return None
    try:
        reference, ours = map(float, words)
    except ValueError:
        return None
    return (reference, ours) if 1 <= reference <= _MOST and 1 <= ours <= _MOST else None


@dataclass(frozen=True)
class LLaVABench:
    """The relative score, overall and of conversation, detail and complex questions.

    Fields:
        reference, caption: fields of GPT-4's answer and of the description, tried in order.
    """

    name: str = ""
    reference: tuple[str, ...] = ("gpt4_ans", "gpt_answer")
    caption: tuple[str, ...] = ("caption",)

    def score(self, item: Item, answer: str, rules: str) -> Scored:
        check_rules(rules)
        return Scored(None)

    def question(self, item: Item, answer: str, scored: Scored) -> JudgeRequest:
        given = item.answers[0] if item.answers else ""
        text = _PROMPT.format(
            caption=_field(item, self.caption, ""),
            question=item.question,
            reference=_field(item, self.reference, given),
            answer=answer,
        )
        return JudgeRequest(
            [{"role": "user", "content": text}],
            _MAX_TOKENS,
            _TEMPERATURE,
            _TRIES,
            valid=lambda reply: grades_of(reply) is not None,
        )

    def judged(self, item: Item, answer: str, reply: str) -> Scored:
        grades = grades_of(reply)
        assert grades is not None
        reference, ours = grades
        detail = {"reference": reference, "ours": ours, "said": reply}
        return Scored(ours / _MOST, f"{reference:g} {ours:g}", detail)

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        parts = groups(scored, "category")
        rows = [_relative(self.name, scored)]
        return rows + [_relative(name, members) for name, members in parts.items() if parts]


def _relative(name: str, scored: ScoredItems) -> Score:
    """100 * mean grade of ours over that of the references. An answer without a verdict counts 0
    beside the mean reference."""
    check_some(scored)
    ours = np.array([each.detail.get("ours", 0.0) for _, each in scored])
    true = np.array([each.detail.get("reference", np.nan) for _, each in scored])
    if np.isnan(true).all():
        return Score(name, 0.0, 0.0, 0.0, len(scored), len(scored))
    true = np.where(np.isnan(true), np.nanmean(true), true)
    drawn = resampled_sums(np.stack([ours, true], axis=1))
    low, high = percentiles(100 * drawn[:, 0] / drawn[:, 1])
    value = 100 * float(ours.sum() / true.sum())
    return Score(name, value, low, high, len(scored), unparsed_in(scored))


def _field(item: Item, names: tuple[str, ...], otherwise: str) -> str:
    """The first of these fields that there is, several lines as one text.

    Raises:
        ValueError: there is none, and nothing else.
    """
    value: Any = next((item.fields[name] for name in names if item.fields.get(name)), otherwise)
    if not value:
        raise ValueError(f"Item {item.id!r} has no field {' or '.join(names)}, which judges need.")
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
