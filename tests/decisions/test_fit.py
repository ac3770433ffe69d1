"""Calibration by maximum likelihood, on data whose temperature and biases are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.decisions.fit import (
    Fit,
    NoMaximumError,
    accuracy,
    calibrated,
    ece,
    fit,
    nll,
    reliability,
)


def synthetic(
    number: int, temperature: float, bias: tuple[float, ...] = (), choices: int = 4, seed: int = 0
) -> tuple[list[list[float]], list[int]]:
    """Scores, and answers that come with the probabilities that the calibration makes of them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3 * temperature, (number, choices))
    answers = [
        int(rng.choice(choices, p=calibrated(row, Fit(temperature, bias))))
        for row in scores.tolist()
    ]
    return scores.tolist(), answers


def by_torch(scores: Any, answers: Any, with_bias: bool) -> tuple[float, list[float]]:
    logits = torch.tensor(scores, dtype=torch.float64)
    labels = torch.tensor(answers)
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=with_bias)
    parameters = [slope, bias] if with_bias else [slope]
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits * slope + bias, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found = bias.detach()
    return 1 / float(slope.detach()), (found - found.mean()).tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("bias", [(), (1.0, -1.0, 0.5, -0.5)])
def test_the_known_calibration_is_found(temperature: float, bias: tuple[float, ...]) -> None:
    scores, answers = synthetic(4000, temperature, bias)
    found = fit(scores, answers, with_bias=bool(bias))
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    if bias:
        assert found.bias == pytest.approx(bias, abs=0.2)
    wanted_temperature, wanted_bias = by_torch(scores, answers, bool(bias))
    assert found.temperature == pytest.approx(wanted_temperature, rel=1e-3)
    if bias:
        assert found.bias == pytest.approx(wanted_bias, abs=1e-3)
    wanted = Fit(wanted_temperature, tuple(wanted_bias))
    losses = [nll([calibrated(row, f) for row in scores], answers) for f in (found, wanted)]
    assert losses[0] <= losses[1] + 1e-12


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_errors_of_calibration_become_smaller(temperature: float) -> None:
    scores, answers = synthetic(4000, temperature)
    half = len(scores) // 2
    found = fit(scores[:half], answers[:half], with_bias=False)
    right = answers[half:]
    raw = [calibrated(row, Fit(1.0)) for row in scores[half:]]
    new = [calibrated(row, found) for row in scores[half:]]
    assert ece(reliability(raw, right)) > 0.1
    assert ece(reliability(new, right)) < 0.03
    assert nll(new, right) < nll(raw, right)
    assert accuracy(new, right) == accuracy(raw, right)  # a temperature changes no order


def test_examples_with_other_numbers_of_choices() -> None:
    two, answers_of_two = synthetic(2000, 2.0, choices=2)
    five, answers_of_five = synthetic(2000, 2.0, choices=5, seed=1)
    found = fit(two + five, answers_of_two + answers_of_five, with_bias=False)
    assert found.temperature == pytest.approx(2.0, rel=0.1)
    with pytest.raises(ValueError, match="same choices"):
        fit(two + five, answers_of_two + answers_of_five, with_bias=True)


def test_a_shift_of_all_scores_changes_nothing() -> None:
    scores, answers = synthetic(200, 2.0)
    moved = [[value - 500.0 * number for value in row] for number, row in enumerate(scores)]
    first, second = (fit(each, answers, with_bias=True) for each in (scores, moved))
    assert first.temperature == pytest.approx(second.temperature)
    assert first.bias == pytest.approx(second.bias, abs=1e-6)


def test_no_maximum() -> None:
    certain = [[5.0, 0.0], [0.0, 4.0]] * 20
    with pytest.raises(NoMaximumError, match="can be answered rightly"):
        fit(certain, [0, 1] * 20, with_bias=False)
    with pytest.raises(NoMaximumError, match="tell nothing"):
        fit(certain, [1, 0] * 20, with_bias=False)
    apart = [[0.0, 2.0], [0.0, 1.5], [0.0, 0.5]] * 20  # a bias sets them apart, no temperature
    fit(apart, [1, 1, 0] * 20, with_bias=False)
    with pytest.raises(NoMaximumError, match="can be answered rightly"):
        fit(apart, [1, 1, 0] * 20, with_bias=True)
    with pytest.raises(NoMaximumError, match="all choices equally likely"):
        fit([[1.0, 1.0]] * 40, [0, 1] * 20, with_bias=False)


@given(
    st.lists(st.floats(-300, 0), min_size=2, max_size=8),
    st.floats(0.05, 20),
)
def test_probabilities_sum_to_one_and_keep_their_order(
    row: list[float], temperature: float
) -> None:
    found = calibrated(row, Fit(temperature))
    assert math.fsum(found) == pytest.approx(1)
    assert found[int(np.argmax(row))] == max(found)
    order = np.argsort(row, kind="stable")
    assert all(np.diff(np.array(found)[order]) >= 0)


def test_expected_calibration_error_by_hand() -> None:
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.45, 0.55]]
    answers = [0, 1, 1, 0]
    bins = reliability(probabilities, answers, num_bins=10)
    assert [each.number for each in bins] == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]
    # |0.55 - 0| + |0.6 - 1| + 2 |0.9 - 0.5|, by 4.
    assert ece(bins) == pytest.approx((0.55 + 0.4 + 0.8) / 4)
    assert ece(reliability([[1.0, 0.0]], [0])) == 0
