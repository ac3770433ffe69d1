"""Corrected spans, by hand."""

from minicpmv.train.dpo.weights import corrected_spans, corrected_weights


def test_a_replacement_gets_the_weight_in_both_answers() -> None:
    chosen, rejected = [1, 2, 3, 10, 11, 4, 5, 6], [1, 2, 3, 20, 4, 5, 6]
    assert corrected_spans(chosen, rejected) == [(3, 5, 3, 4)]
    weights = corrected_weights(chosen, rejected, 5.0)
    assert weights == ([1, 1, 1, 5, 5, 1, 1, 1], [1, 1, 1, 5, 1, 1, 1])


def test_what_was_only_inserted_keeps_weight_one() -> None:
    chosen, rejected = [1, 2, 3, 10, 11, 4, 5, 6], [1, 2, 3, 4, 5, 6]
    assert corrected_spans(chosen, rejected) == []
    assert corrected_weights(chosen, rejected, 5.0) == ([1.0] * 8, [1.0] * 6)


def test_what_was_only_deleted_keeps_weight_one() -> None:
    chosen, rejected = [1, 2, 3, 4, 5, 6], [1, 2, 3, 10, 4, 5, 6]
    assert corrected_weights(chosen, rejected, 5.0) == ([1.0] * 6, [1.0] * 7)


def test_a_match_of_two_tokens_belongs_to_the_corrections_around_it() -> None:
    chosen = [1, 2, 3, 10, 7, 8, 11, 4, 5, 6]
    rejected = [1, 2, 3, 20, 7, 8, 21, 4, 5, 6]
    assert corrected_spans(chosen, rejected) == [(3, 7, 3, 7)]
    assert corrected_spans(chosen, rejected, min_match=2) == [(3, 4, 3, 4), (6, 7, 6, 7)]


def test_a_match_of_three_tokens_parts_two_corrections() -> None:
    chosen = [1, 2, 3, 10, 7, 8, 9, 11, 4, 5, 6]
    rejected = [1, 2, 3, 20, 7, 8, 9, 21, 4, 5, 6]
    assert corrected_spans(chosen, rejected) == [(3, 4, 3, 4), (7, 8, 7, 8)]


def test_equal_and_wholly_different_answers() -> None:
    assert corrected_weights([1, 2, 3, 4], [1, 2, 3, 4], 5.0) == ([1.0] * 4, [1.0] * 4)
    assert corrected_weights([1, 2], [3, 4, 5], 5.0) == ([5.0] * 2, [5.0] * 3)
    # Two equal tokens are no match either: both are corrected whole.
    assert corrected_weights([1, 2], [1, 2], 5.0) == ([5.0] * 2, [5.0] * 2)


def test_a_token_that_is_frequent_is_not_taken_for_noise() -> None:
    """difflib leaves out what is frequent in more than 200 items, unless told not to."""
    chosen, rejected = [7] * 300 + [1], [7] * 300 + [2]
    assert corrected_spans(chosen, rejected) == [(300, 301, 300, 301)]
