"""Ask a judge about all answers of a run."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import Judge, Judgements, JudgeReply, JudgeRequest
from minicpmv.evaluate.metrics.contract import JudgedMetric, Metric, Scored
from minicpmv.evaluate.metrics.judged.matching import MatchedByJudge
from minicpmv.evaluate.metrics.judged.mathvista import ExtractedByJudge
from minicpmv.evaluate.metrics.mathvista import MathVista


class Answered(NamedTuple):
    """An answer, and what the rules say about it."""

    item: Item
    answer: str
    scored: Scored


class SeveralQuestions:
    """A metric that asks several questions about an answer, or one about several answers."""

    def questions(self, answered: Sequence[Answered]) -> list[tuple[JudgeRequest, ...]]:
        """What to ask about each answer. The same request of two answers is asked once."""
        raise NotImplementedError

    def verdict(self, answered: Answered, replies: tuple[JudgeReply, ...]) -> Scored:
        """What the answer is worth by the replies to its questions."""
        raise NotImplementedError


@dataclass(frozen=True)
class Verdicts:
    """What all answers are worth, and how many of them the judge was asked about."""

    scored: list[Scored]
    asked: int


def with_judge(metric: Metric, rules: str) -> JudgedMetric | SeveralQuestions:
    """The metric itself where it asks a judge; else one that has a judge take MathVista's answers
    out of longer ones, or match what rules cannot read with the options, or with yes and no."""
    if isinstance(metric, SeveralQuestions | JudgedMetric):
        return metric
    if isinstance(metric, MathVista):
        return ExtractedByJudge(metric, rules)
    return MatchedByJudge(metric, rules)


def judge_answers(
    metric: JudgedMetric | SeveralQuestions,
    answered: Sequence[Answered],
    judge: Judge,
    kept: Judgements,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdicts:
    """What every answer is worth by the judge.

    Args:
        kept: what was judged before, and takes what is judged now.
        on_progress: called with how many different questions have a reply, and how many there are.

    Raises:
        OSError: the judge cannot be reached; what is judged is kept.
    """
    if isinstance(metric, SeveralQuestions):
        questions = metric.questions(answered)
    else:
        asked = [metric.question(*each) for each in answered]
        questions = [() if request is None else (request,) for request in asked]
    all_requests = [request for requests in questions for request in requests]
    replies = iter(kept.ask(judge, all_requests, on_progress))
    scored = [
        _verdict(metric, each, tuple(next(replies) for _ in requests))
        for each, requests in zip(answered, questions, strict=True)
    ]
    return Verdicts(scored, sum(map(bool, questions)))


def _verdict(
    metric: JudgedMetric | SeveralQuestions, answered: Answered, replies: tuple[JudgeReply, ...]
) -> Scored:
    if isinstance(metric, SeveralQuestions):
        return metric.verdict(answered, replies)
    if not replies:
        return answered.scored
    text = replies[0].text
    return no_verdict(replies[0]) if text is None else metric.judged(*answered[:2], text)


def no_verdict(reply: JudgeReply) -> Scored:
    """Of an answer about which the judge has said nothing that counts."""
    return Scored(None, detail={"judge": reply.why, "said": reply.said})


def unjudged(scored: Sequence[Scored]) -> dict[str, int]:
    """How many answers have no verdict, by the reason."""
    found = Counter(str(each.detail["judge"]) for each in scored if "judge" in each.detail)
    return dict(found.most_common())
