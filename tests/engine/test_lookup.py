"""Guesses from the text: what they are, against a search of the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from minicpmv.engine.lookup import Lookup, propose


def searched(tokens: list[int], num_tokens: int, max_ngram: int, min_ngram: int) -> list[int]:
    """The same by looking at every place, from the end."""
    for size in range(max_ngram, min_ngram - 1, -1):
        wanted = tokens[len(tokens) - size :]
        for place in range(len(tokens) - 1, size - 1, -1):
            if size <= len(tokens) and tokens[place - size : place] == wanted:
                text = list(tokens)
                for index in range(num_tokens):
                    text.append(text[place + index])
                return text[len(tokens) :]
    return []


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(0, 9),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_it_is_the_latest_of_the_longest_matches(
    tokens: list[int], num_tokens: int, least: int, more: int
) -> None:
    wanted = searched(tokens, num_tokens, least + more, least)
    assert propose(tokens, num_tokens, max_ngram=least + more, min_ngram=least) == wanted
    lookup = Lookup(tokens[: len(tokens) // 2], max_ngram=least + more, min_ngram=least)
    for token in tokens[len(tokens) // 2 :]:
        lookup.append(token)
        lookup.propose(num_tokens)
    assert lookup.propose(num_tokens) == wanted


def test_examples() -> None:
    assert propose([1, 2, 3, 4, 5, 9, 1, 2, 3], 3) == [4, 5, 9]
    assert propose([7, 1, 2, 5, 8, 1, 2, 6, 7, 1, 2], 2) == [5, 8]  # longer, before later
    assert propose([1, 2, 5, 1, 2, 6, 9, 1, 2], 2) == [6, 9]  # the latest
    assert propose([1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]
    assert propose([4, 4, 4], 3) == [4, 4, 4]
    assert propose([1, 2, 3], 3) == propose([], 3) == propose([1], 3) == []
    assert propose([5, 1, 6, 1], 2) == []
    assert propose([5, 1, 6, 1], 2, min_ngram=1) == [6, 1]
