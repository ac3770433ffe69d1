"""What every metric takes and gives: one item with its answer, then all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from minicpmv.evaluate.items import Item
    from minicpmv.evaluate.judges import JudgeRequest

# Whose reading of an answer: VLMEvalKit of August 2026, OpenBMB's `eval_mm` that the cards were
# measured with, lmms-eval 0.7.3.
RULES = ("vlmevalkit", "vlmevalkit-fork", "lmms-eval")


@dataclass(frozen=True)
class Scored:
    """What one answer is worth.

    Fields:
        value: 0 to 1 with few exceptions; None where the answer could not be read, which counts 0
            in the score and is counted apart.
        parsed: what was read in it.
        detail: JSON values that `summarise` needs or a reader wants to know.
    """

    value: float | None
    parsed: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A row of the table.

    Fields:
        value: in the unit that is published (605 points, 74.1 %); low, high: its 95 % interval.
        total: items that it is made of; unparsed: those among them that could not be read.
    """

    name: str
    value: float
    low: float
    high: float
    total: int
    unparsed: int = 0
    unit: str = "%"
    less_is_better: bool = False


ScoredItems = Sequence[tuple["Item", Scored]]


class Metric(Protocol):
    """From answers to a table."""

    name: str

    def score(self, item: "Item", answer: str, rules: str) -> Scored:
        """What one answer is worth.

        Raises:
            ValueError: the item lacks what the metric needs.
        """

    def summarise(self, scored: ScoredItems, rules: str) -> list[Score]:
        """The table: first what the cards publish, then its parts.

        Raises:
            ValueError: there are no items.
        """


@runtime_checkable
class JudgedMetric(Metric, Protocol):
    """One that asks a judge about some or all answers."""

    def question(self, item: "Item", answer: str, scored: Scored) -> "JudgeRequest | None":
        """What to ask about an answer; None where the rule was enough."""

    def judged(self, item: "Item", answer: str, reply: str) -> Scored:
        """What the answer is worth by the judge's valid reply."""


def check_rules(rules: str) -> None:
    """Refuse rules that nobody has.

    Raises:
        ValueError: they are not among `RULES`.
    """
    if rules not in RULES:
        raise ValueError(f"The rules {rules!r} are not known. Known: {', '.join(RULES)}.")
