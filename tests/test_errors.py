"""Words of errors: what was meant, and lists that are not too long for a line."""

import pytest

from minicpmv.errors import listed, meant

MANY = [f"llava-bench-{n}" for n in range(30)] + ["ocrbench", "POPE"]


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("x", ["a", "b"], " Known: a, b."),
        ("ocrbnch", MANY, " Close: ocrbench. All: the list."),
        ("llava", MANY, " Close: llava-bench-0, llava-bench-1, llava-bench-2. All: the list."),
        ("pope-", MANY, " All: the list."),
        ("", MANY, " All: the list."),
    ],
)
def test_of_many_known_words_the_near_ones_are_named(word, known, expected):
    assert meant(word, known, "the list") == expected


def test_without_a_place_that_lists_them_all_are_listed():
    assert meant("xyzzy", MANY) == f" Known: {', '.join(MANY)}."
    assert meant("ocrbenc", MANY) == f" Close: ocrbench. Known: {', '.join(MANY)}."


def test_a_long_list_is_cut():
    assert listed("abc") == "a, b, c"
    assert listed(range(15), 3) == "0, 1, 2 and 12 more"
