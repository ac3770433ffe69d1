"""Video-ChatGPT (Maaz 2023): a judge gives 0 to 5 on five axes.

An answer to a general question is judged on three of them: correctness, detail and context. The
temporal axis has questions of its own. For consistency every question is asked in two ways, and
both answers are judged together; the table holds a row for each way.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeReply, JudgeRequest
from minicpmv.evaluate.metrics.contract import Score, Scored, ScoredItems, check_rules
from minicpmv.evaluate.metrics.judged.asking import Answered, SeveralQuestions
from minicpmv.evaluate.metrics.plain import references
from minicpmv.evaluate.metrics.summaries import mean_row

MOST = 5
_TRIES, _MAX_TOKENS = 5, 64
_SCORE = re.compile(r"['\"]?score['\"]*\s*:\s*['\"]?(-?\d+(?:\.\d+)?)", re.IGNORECASE)

# axis: what it looks at, and what its best score means.
AXES: Mapping[str, tuple[str, str]] = {
    "correctness": (
        "whether the answer is true: it agrees in its facts with the true answer, in whatever "
        "words, and claims nothing false about the video",
        "all facts agree",
    ),
    "detail": (
        "how detailed the answer is: it leaves out no point of importance, and names particular "
        "things of the video rather than general ones",
        "complete and particular",
    ),
    "context": (
        "whether the answer fits the whole of the video: it has its main themes and its mood, and "
        "nothing that does not belong",
        "in full agreement with the context",
    ),
    "temporal": (
        "whether the answer has the order of events right: what comes first, what follows, as the "
        "true answer has it",
        "the order is the same",
    ),
    "consistency": (
        "whether two answers to the same question, asked in two ways, agree with each other and "
        "with the true answer, and contradict it nowhere",
        "all three say the same",
    ),
}

_INSTRUCTIONS = """\
Grade an answer to a question about a video, which you know by the true answer alone. Look only at \
{what}. Other words for the same thing are as good. Give a whole number from 0 to {most}, where \
{most} means: {best}. Reply with a Python dictionary and nothing else, as in {{'score': 3}}."""


def grade_of(reply: str) -> int | None:
    """The grade of a reply, without decimals; None where it gives none, several, or not 0 to 5."""
    given = {float(number) for number in _SCORE.findall(reply)}
    if len(given) != 1:
        return None
    grade = given.pop()
    return int(grade) if 0 <= grade <= MOST else None


def _request(axis: str, lines: Mapping[str, str]) -> JudgeRequest:
    what, best = AXES[axis]
    asked = "\n".join(f"{name}: {text}" for name, text in lines.items())
    return JudgeRequest(
        [
            {"role": "system", "content": _INSTRUCTIONS.format(what=what, most=MOST, best=best)},
            {"role": "user", "content": asked},
        ],
        _MAX_TOKENS,
        tries=_TRIES,
        valid=lambda reply: grade_of(reply) is not None,
    )


@dataclass(frozen=True)
class VideoChatGPT(SeveralQuestions):
    """The mean grade of each axis, out of 5. `value` of an answer is the mean of its axes.

    Fields:
        axes: that answers are judged on.
    """

    name: str = ""
    axes: tuple[str, ...] = ("correctness", "detail", "context")

    def __post_init__(self) -> None:
        axes = (self.axes,) if isinstance(self.axes, str) else tuple(self.axes)
        object.__setattr__(self, "axes", axes)
        if unknown := [axis for axis in axes if axis not in AXES]:
            raise ValueError(f"The axis {unknown[0]!r} is not known. Known: {', '.join(AXES)}.")

    def score(self, item: Item, answer: str, rules: str) -> Scored:
        check_rules(rules)
        return Scored(None)

    def questions(self, answered: Sequence[Answered]) -> list[tuple[JudgeRequest, ...]]:
        return [
            tuple(_request(axis, _one(each.item, each.answer)) for axis in self.axes)
            for each in answered
        ]

    def verdict(self, answered: Answered, replies: tuple[JudgeReply, ...]) -> Scored:
        if not replies:
            return answered.scored
        grades: dict[str, int] = {}
        failed: dict[str, str] = {}
        for axis, reply in zip(self.axes, replies, strict=True):
            grade = None if reply.text is None else grade_of(reply.text)
            if grade is None:
                failed = failed or {"judge": reply.why, "said": reply.said}
            else:
                grades[axis] = grade
        value = fmean(grades.values()) / MOST if len(grades) == len(replies) else None
        parsed = " ".join(f"{grades.get(axis, '-')}" for axis in self.axes)
        return Scored(value, parsed, {"grades": grades, **failed})

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        rows = []
        for axis in self.axes:
            graded = [(item, _on(each, axis)) for item, each in scored]
            rows.append(mean_row(axis, graded, scale=MOST, unit="points"))
        return rows


def _one(item: Item, answer: str) -> dict[str, str]:
    return {"Question": item.question, "True answer": references(item)[0], "Answer": answer}


def _on(scored: Scored, axis: str) -> Scored:
    grade = scored.detail.get("grades", {}).get(axis)
    return replace(scored, value=None if grade is None else grade / MOST)


@dataclass(frozen=True)
class Consistency(VideoChatGPT):
    """Pairs of answers to one question. Both rows of a pair get its grade, so that the mean over
    rows is that over pairs; a row whose other one is missing has none.
    """

    axes: tuple[str, ...] = ("consistency",)

    def questions(self, answered: Sequence[Answered]) -> list[tuple[JudgeRequest, ...]]:
        asked: list[tuple[JudgeRequest, ...]] = [()] * len(answered)
        for first, second in pairs([each.item for each in answered]):
            one, other = answered[first], answered[second]
            lines = {
                "Question, asked in one way": one.item.question,
                "Question, asked in another": other.item.question,
                "True answer": references(one.item)[0],
                "Answer to the first": one.answer,
                "Answer to the second": other.answer,
            }
            asked[first] = asked[second] = (_request("consistency", lines),)
        return asked

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        both = [number for pair in pairs([item for item, _ in scored]) for number in pair[:1]]
        return super().summarise([scored[number] for number in both] or scored, rules)


def pairs(items: Sequence[Item]) -> list[tuple[int, int]]:
    """Numbers of the rows that ask the same in the first and in the second way.

    Of every video the first row of each way belong together, and so on. Rows that do not say which
    way they are (`question_1` or `question_2`) are paired in turn, where the true answer is the
    same.
    """
    ways: dict[tuple[str, ...], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for number, item in enumerate(items):
        video = str(item.fields.get("video_name"))
        has = [_asks(item, name) for name in ("question_1", "question_2")]
        if all(has):
            raise ValueError(
                f"Item {item.id!r} has question_1 and question_2; expected one of them, and "
                '"None" as the other.'
            )
        if any(has):
            ways[(video,)][has.index(True)].append(number)
        else:
            first, second = ways[(video, references(item)[0])]
            (first if len(first) == len(second) else second).append(number)
    return sorted(pair for both in ways.values() for pair in zip(*both, strict=False))


def _asks(item: Item, name: str) -> bool:
    return str(item.fields.get(name) or "None").strip() not in ("None", "")
