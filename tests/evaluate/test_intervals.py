"""Intervals and tests of significance, against values known by hand and other formulas."""

import math

import numpy as np
import pytest

from minicpmv.evaluate import intervals


def test_wilson_interval_of_known_shares():
    low, high = intervals.wilson_interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert intervals.wilson_interval(0, 5)[0] == pytest.approx(0.0)
    assert intervals.wilson_interval(5, 5)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="6 right of 5"):
        intervals.wilson_interval(6, 5)


def test_bootstrap_interval_is_that_of_the_normal_distribution_for_many_units():
    scores = [0.0, 1.0] * 200  # standard error of the mean: 0.5 / 20
    low, high = intervals.bootstrap_interval(scores, lambda drawn: sum(drawn) / len(drawn))
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
    assert intervals.ratio([(1, 10), (0, 30)]) == pytest.approx(1 / 40)
    with pytest.raises(ValueError, match="0 units"):
        intervals.bootstrap_interval([], intervals.ratio)


def test_resampled_sums_spread_like_the_normal_distribution():
    values = np.tile([0.0, 0.3, 0.6, 0.9], 250)
    sums = intervals.resampled_sums(np.stack([values, np.ones(1000)], 1), repeats=2000)
    assert sums.shape == (2000, 2)
    assert (sums[:, 1] == 1000).all()
    low, high = intervals.percentiles(sums[:, 0] / 1000)
    half = 1.96 * values.std() / math.sqrt(1000)
    assert low == pytest.approx(0.45 - half, abs=0.002)
    assert high == pytest.approx(0.45 + half, abs=0.002)
    assert (intervals.resampled_sums([[1.0], [2.0]]) == intervals.resampled_sums([[1], [2]])).all()


def test_interval_of_a_mean_is_never_certain():
    assert intervals.mean_interval([1, 1, 0, 1]) == intervals.wilson_interval(3, 4)
    low, high = intervals.mean_interval([0.9] * 5)
    assert low < 0.6
    assert 0.9 < high < 1
    low, high = intervals.mean_interval([0.2, 0.4, 0.9] * 30)
    assert 0.4 < low < 0.5 < high < 0.6


def test_mcnemar_is_the_toss_of_a_fair_coin():
    assert intervals.mcnemar(0, 0) == 1
    assert intervals.mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert intervals.mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 2**6)
    assert intervals.mcnemar(5, 1) == intervals.mcnemar(1, 5)
    assert intervals.mcnemar(4, 4) == 1
    assert 0 < intervals.mcnemar(4000, 4300) < 0.002
    with pytest.raises(ValueError, match="-1"):
        intervals.mcnemar(-1, 3)


@pytest.mark.parametrize("counts", [(3, 9), (0, 1), (12, 40), (100, 100), (250, 300)])
def test_mcnemar_agrees_with_scipy(counts):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(counts[0], sum(counts), 0.5).pvalue
    assert intervals.mcnemar(*counts) == pytest.approx(expected)


def test_paired_difference_of_shares_is_newcombes():
    # 36 both, 12 first only, 2 second only, 0 neither.
    first, second = [1] * 36 + [1] * 12 + [0] * 2, [1] * 36 + [0] * 12 + [1] * 2
    found = intervals.paired_difference(first, second)
    assert found.value == pytest.approx(-0.2)
    assert (round(found.low, 4), round(found.high, 4)) == (-0.3404, -0.0569)
    assert (found.only_first, found.only_second, found.total) == (12, 2, 50)
    assert found.p == intervals.mcnemar(12, 2)
    same = intervals.paired_difference([1, 1, 0], [1, 1, 0])
    assert (same.value, same.p) == (0, 1)
    assert same.low < 0 < same.high


def test_paired_difference_of_partial_scores_is_resampled():
    first = [0.3, 0.6, 1.0, 0.0] * 50
    second = [min(1.0, score + 0.3) for score in first]
    found = intervals.paired_difference(first, second)
    assert found.value == pytest.approx(0.225)
    assert 0.19 < found.low < 0.225 < found.high < 0.26
    with pytest.raises(ValueError, match="2 and 1 items"):
        intervals.paired_difference([1, 0], [1])
