"""A judge that answers by a function of the prompt, and remembers what it was asked."""

from minicpmv.evaluate.judges import FunctionJudge, Judgements
from minicpmv.evaluate.metrics import metric
from minicpmv.evaluate.metrics.judged import Answered, judge_answers, with_judge

RULES = "vlmevalkit"


class ScriptedJudge(FunctionJudge):
    """Fields: asked: the prompts, in order."""

    def __init__(self, answer):
        self.asked = []

        def judge(prompt, temperature):
            self.asked.append(prompt)
            return answer(prompt, temperature)

        super().__init__(judge, "scripted")


def answer_in_turn(*replies):
    """Gives these replies one after the other; TimeoutError is raised."""
    left = list(replies)

    def answer(prompt, temperature):
        reply = left.pop(0)
        if reply is TimeoutError:
            raise TimeoutError("too late")
        return reply

    return answer


def judged(measure, pairs, answer, rules=RULES):
    """Scores of (item, answer) pairs by a metric (or its name) with a judge; and the judge."""
    measure = metric(measure) if isinstance(measure, str) else measure
    judge = ScriptedJudge(answer)
    answered = [Answered(item, said, measure.score(item, said, rules)) for item, said in pairs]
    with Judgements(None) as kept:
        found = judge_answers(with_judge(measure, rules), answered, judge, kept)
    return found.scored, judge


def table(measure, pairs, scored, rules=RULES):
    """Name of a row -> the row."""
    measure = metric(measure) if isinstance(measure, str) else measure
    rows = measure.summarise(
        [(item, each) for (item, _), each in zip(pairs, scored, strict=True)], rules
    )
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.low <= row.value + 1e-9 and row.value <= row.high + 1e-9 for row in rows), rows
    return {row.name: row for row in rows}
