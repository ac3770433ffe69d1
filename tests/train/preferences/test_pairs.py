"""Scores, pairs and the filter of lengths, by hand."""

from minicpmv.train.preferences.pairs import (
    THRESHOLDS,
    Pair,
    is_kept,
    length_limit,
    pairs_of,
    score,
    words,
)


def test_a_score_counts_what_was_rejected() -> None:
    assert score([True, True, True]) == 0
    assert score([True, False, False, True]) == -2
    assert score([]) == 0


def test_pairs_have_different_scores_and_texts() -> None:
    texts, scores = ["a", "b", "c", "a"], [0, -1, -1, -2]
    every = pairs_of(7, texts, scores, 10, 0)
    assert every == [Pair(7, 0, 1), Pair(7, 0, 2), Pair(7, 1, 3), Pair(7, 2, 3)]


def test_so_many_pairs_are_drawn_the_same_for_a_seed() -> None:
    texts, scores = [str(i) for i in range(10)], list(range(-9, 1))
    drawn = pairs_of(3, texts, scores, 2, 0)
    assert len(set(drawn)) == 2
    assert drawn == pairs_of(3, texts, scores, 2, 0)
    assert {tuple(pairs_of(3, texts, scores, 2, seed)) for seed in range(9)} != {tuple(drawn)}
    assert all(scores[pair.chosen] > scores[pair.rejected] for pair in drawn)


def test_thresholds() -> None:
    assert (THRESHOLDS[0], THRESHOLDS[1], THRESHOLDS[-1], len(THRESHOLDS)) == (0, 0.02, 0.98, 50)


def test_the_filter_of_lengths() -> None:
    # (10 - 8) / 10 = 0.2, (10 - 5) / 10 = 0.5; a shorter rejected answer always stays.
    assert is_kept(8, 10, 0.2)
    assert not is_kept(8, 10, 0.18)
    assert is_kept(12, 10, 0.0)
    lengths = [(12, 10), (8, 10), (5, 10)]
    # With limit 0: 12 against 10, a gap of 0.2. From 0.2 on: 10 against 10. From 0.5: 8.33.
    assert length_limit(lengths) == 0.2
    # All are alike: the first limit is as good as any.
    assert length_limit([(10, 10), (10, 10)]) == 0
    # Where only the largest limits keep anything.
    assert length_limit([(1, 10)]) == 0.9


def test_words() -> None:
    assert words("a red circle.") == 3
    assert words("两个圆 here") == 5 - 0
