"""Metrics of rules that ask a judge about what the rules cannot read."""

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import JudgeRequest
from minicpmv.evaluate.metrics.contract import Metric, Score, Scored, ScoredItems


class UnreadByRules:
    """What they share: the rules come first, and an empty answer is shown to nobody.

    Args:
        metric: reads answers by rules.
        rules: by which what the judge says is read as well.
    """

    def __init__(self, metric: Metric, rules: str) -> None:
        self.name = metric.name
        self._metric = metric
        self._rules = rules

    def score(self, item: Item, answer: str, rules: str) -> Scored:
        return self._metric.score(item, answer, rules)

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        return self._metric.summarise(scored, rules)

    def question(self, item: Item, answer: str, scored: Scored) -> JudgeRequest | None:
        if scored.value is not None or not answer.strip():
            return None
        return self._question(item, answer)

    def _question(self, item: Item, answer: str) -> JudgeRequest | None:
        """What to ask about an answer that no rule could read; None: nothing."""
        raise NotImplementedError
