"""The result: probabilities of all choices, and how sure they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .question import Kind


@dataclass(frozen=True)
class Decision:
    """How likely each choice is.

    Fields:
        choice: the likeliest label.
        probabilities: of each label among the choices; they sum to one, and are calibrated where a
            calibration was given.
        logprobs: natural logarithm of the probability that the model answers with the label and
            then ends, among everything that it could answer; as the model has it, averaged over
            the orders.
        num_orders: in which the choices were listed.
        num_input_tokens: of all prompts; num_cached_tokens: of these, known from before;
            num_scored_tokens: of all answers that were looked at, with their terminators.
        is_calibrated: whether `probabilities` are.
    """

    kind: Kind
    choice: str
    probabilities: Mapping[str, float]
    logprobs: Mapping[str, float]
    num_orders: int = 1
    num_input_tokens: int = 0
    num_cached_tokens: int = 0
    num_scored_tokens: int = 0
    is_calibrated: bool = False

    @property
    def mass(self) -> float:
        """Probability that the model answers with any of the choices, among all answers: where it
        is small, the probabilities say little."""
        return min(math.fsum(map(math.exp, self.logprobs.values())), 1.0)

    @property
    def confidence(self) -> float:
        """Probability of the choice among all answers that the model could give."""
        return self.probabilities[self.choice] * self.mass

    @property
    def entropy(self) -> float:
        """Of `probabilities`, in nats: 0 for a sure choice."""
        return -math.fsum(p * math.log(p) for p in self.probabilities.values() if p > 0)

    @property
    def probability(self) -> float:
        """Of yes.

        Raises:
            ValueError: the question was of another kind.
        """
        if self.kind != "yesno":
            raise ValueError(
                f"A decision of kind {self.kind!r} has `probabilities` of its choices."
            )
        return next(iter(self.probabilities.values()))

    @property
    def score(self) -> float:
        """The mean of the numbers of the levels, the lowest 0, by their probabilities.

        Raises:
            ValueError: the question was of another kind.
        """
        if self.kind != "score":
            raise ValueError(f"A decision of kind {self.kind!r} has no score; pass kind='score'.")
        return math.fsum(level * p for level, p in enumerate(self.probabilities.values()))

    def with_probabilities(self, probabilities: Mapping[str, float]) -> "Decision":
        """The same with calibrated probabilities; the likeliest may be another."""
        likeliest = max(probabilities, key=lambda label: probabilities[label])
        return replace(
            self, choice=likeliest, probabilities=dict(probabilities), is_calibrated=True
        )


def decision_of(kind: Kind, logprobs: Mapping[str, float], **counts: Any) -> Decision:
    """The decision by the logarithms of the probabilities of whole answers."""
    probabilities = softmax(logprobs)
    choice = max(logprobs, key=lambda label: logprobs[label])
    return Decision(kind, choice, probabilities, dict(logprobs), **counts)


def softmax(logits: Mapping[str, float]) -> dict[str, float]:
    """Probabilities in proportion to the exponentials, which may be beyond the range of floats."""
    largest = max(logits.values())
    weights = {label: math.exp(value - largest) for label, value in logits.items()}
    total = math.fsum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def log_mean_exp(values: list[float], number: int) -> float:
    """The logarithm of the sum of exponentials, divided by `number`."""
    largest = max(values)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(v - largest) for v in values) / number)
