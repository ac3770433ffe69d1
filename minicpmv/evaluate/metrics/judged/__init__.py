"""Metrics that ask a judge. Prompts are in our own words and ask for replies of the same form as
those of the original benchmarks; scores by other judges cannot be compared with the cards.
"""

from .asking import Answered, SeveralQuestions, Verdicts, judge_answers, unjudged, with_judge

__all__ = [
    "Answered",
    "SeveralQuestions",
    "Verdicts",
    "judge_answers",
    "unjudged",
    "with_judge",
]
