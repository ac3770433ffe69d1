"""Temperature and biases by maximum likelihood, and how well probabilities are calibrated.

With the log-probability s of each choice, the calibrated probability is

    softmax(s / temperature + bias)

(temperature scaling, Guo et al. 2017, with a bias per choice). In 1 / temperature and the biases
the likelihood is that of multinomial logistic regression, which is concave: Newton's method finds
its one maximum, or that there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_STEPS = 100
# Beyond these the likelihood has no maximum in practice: examples are too few, or too easy.
MAX_SLOPE = 1000.0  # 1 / temperature
MAX_BIAS = 15.0  # nats
MIN_LOSS = 1e-6  # nats
NUM_BINS = 15


class NoMaximumError(ValueError):
    """The examples do not determine a calibration."""


@dataclass(frozen=True)
class Fit:
    """Fields:
    temperature: above 0. bias: of each choice, the mean of them 0; empty: none.
    """

    temperature: float
    bias: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bin:
    """Decisions whose confidence lies between two edges.

    Fields:
        confidence: the mean; accuracy: the share that is right; both 0 where there are none.
    """

    low: float
    high: float
    number: int
    confidence: float
    accuracy: float


def fit(logprobs: Sequence[Sequence[float]], answers: Sequence[int], *, with_bias: bool) -> Fit:
    """The calibration under which the answers are likeliest.

    Args:
        logprobs: of the choices of each example; with biases, as many in all of them.
        answers: the place of the right one in each.

    Raises:
        NoMaximumError: the examples determine none; the message says why.
    """
    scores, is_choice = _padded(logprobs)
    labels = np.asarray(answers)
    number, num_choices = scores.shape
    num_biases = num_choices if with_bias else 0
    if with_bias and not is_choice.all():
        raise ValueError("Biases need the same choices in all examples.")
    if not scores.any():
        raise NoMaximumError("the model finds all choices equally likely in every one of them")
    theta = np.concatenate([[1.0], np.zeros(num_biases)])
    loss = _loss(theta, scores, is_choice, labels)
    for _ in range(MAX_STEPS):
        p = _softmax(theta, scores, is_choice)
        residual = p.copy()
        residual[np.arange(number), labels] -= 1
        features = _features(scores, with_bias)  # (number, choices, parameters)
        gradient = np.einsum("nk,nkp->p", residual, features) / number
        if np.abs(gradient).max() < 1e-10:
            break
        mean = np.einsum("nk,nkp->np", p, features)
        hessian = np.einsum("nk,nkp,nkq->pq", p, features, features) - mean.T @ mean
        # All biases may move together without any effect; a little ridge keeps them where they are.
        step = np.linalg.solve(hessian / number + 1e-10 * np.eye(len(theta)), gradient)
        theta, loss = _descend(theta, step, gradient, loss, scores, is_choice, labels)
        if abs(theta[0]) > MAX_SLOPE or np.abs(theta[1:]).max(initial=0) > MAX_BIAS:
            break
    slope, bias = float(theta[0]), theta[1:] - (theta[1:].mean() if with_bias else 0)
    if slope <= 1e-3:
        raise NoMaximumError(
            f"the model's probabilities tell nothing of the right answers (1 / temperature is "
            f"{slope:.3f})"
        )
    if slope > MAX_SLOPE or np.abs(bias).max(initial=0) > MAX_BIAS or loss < MIN_LOSS:
        raise NoMaximumError(
            "all of them can be answered rightly, so that the surest probabilities are the "
            "likeliest; add harder examples"
        )
    return Fit(1 / slope, tuple(float(each) for each in bias))


def calibrated(logprobs: Sequence[float], found: Fit) -> list[float]:
    """Probabilities of the choices of one example; they sum to one."""
    bias = found.bias or (0.0,) * len(logprobs)
    logits = np.asarray(logprobs, dtype=np.float64) / found.temperature + np.asarray(bias)
    weights = np.exp(logits - logits.max())
    result: list[float] = (weights / weights.sum()).tolist()
    return result


def nll(probabilities: Sequence[Sequence[float]], answers: Sequence[int]) -> float:
    """Mean negative log-likelihood of the right answers, in nats."""
    right = [max(row[answer], 1e-300) for row, answer in zip(probabilities, answers, strict=True)]
    return float(-np.log(right).mean())


def accuracy(probabilities: Sequence[Sequence[float]], answers: Sequence[int]) -> float:
    """The share of examples whose likeliest choice is right."""
    pairs = zip(probabilities, answers, strict=True)
    return float(np.mean([int(np.argmax(row)) == answer for row, answer in pairs]))


def reliability(
    probabilities: Sequence[Sequence[float]], answers: Sequence[int], num_bins: int = NUM_BINS
) -> list[Bin]:
    """Decisions by the probability of their likeliest choice, in bins of equal width."""
    confidence = np.array([max(row) for row in probabilities])
    right = np.array(
        [int(np.argmax(row)) == answer for row, answer in zip(probabilities, answers, strict=True)]
    )
    places = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    bins = []
    for place in range(num_bins):
        chosen = places == place
        number = int(chosen.sum())
        means = (
            (float(confidence[chosen].mean()), float(right[chosen].mean())) if number else (0, 0)
        )
        bins.append(Bin(place / num_bins, (place + 1) / num_bins, number, *means))
    return bins


def ece(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy over decisions."""
    total = sum(each.number for each in bins)
    return sum(each.number * abs(each.confidence - each.accuracy) for each in bins) / total


def _padded(logprobs: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores (examples, most choices), the largest of a row 0, and where there is a choice."""
    width = max(map(len, logprobs))
    scores = np.zeros((len(logprobs), width))
    is_choice = np.zeros((len(logprobs), width), dtype=bool)
    for number, row in enumerate(logprobs):
        scores[number, : len(row)] = np.asarray(row) - max(row)
        is_choice[number, : len(row)] = True
    return scores, is_choice


def _features(scores: np.ndarray, with_bias: bool) -> np.ndarray:
    features = scores[..., None]
    if not with_bias:
        return features
    width = scores.shape[1]
    of_bias = np.broadcast_to(np.eye(width), (len(scores), width, width))
    return np.concatenate([features, of_bias], axis=2)


def _logits(theta: np.ndarray, scores: np.ndarray, is_choice: np.ndarray) -> np.ndarray:
    bias = theta[1:] if len(theta) > 1 else 0.0
    return np.where(is_choice, theta[0] * scores + bias, -np.inf)


def _softmax(theta: np.ndarray, scores: np.ndarray, is_choice: np.ndarray) -> np.ndarray:
    logits = _logits(theta, scores, is_choice)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _loss(
    theta: np.ndarray, scores: np.ndarray, is_choice: np.ndarray, labels: np.ndarray
) -> float:
    logits = _logits(theta, scores, is_choice)
    largest = logits.max(axis=1)
    total = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(labels)), labels]).mean())


def _descend(
    theta: np.ndarray,
    step: np.ndarray,
    gradient: np.ndarray,
    loss: float,
    scores: np.ndarray,
    is_choice: np.ndarray,
    labels: np.ndarray,
) -> tuple[np.ndarray, float]:
    """A step of Newton's method, halved until the loss falls."""
    size, slope = 1.0, float(gradient @ step)
    while size > 1e-10:
        candidate = theta - size * step
        new = _loss(candidate, scores, is_choice, labels)
        if new <= loss - 1e-4 * size * slope:
            return candidate, new
        size /= 2
    return theta, loss
