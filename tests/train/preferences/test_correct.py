"""Answers that are paired with themselves, corrected."""

from typing import Any

import pytest

from minicpmv.scenes.questions.statements import unnamed
from minicpmv.train.preferences.claims import claims_of
from minicpmv.train.preferences.correct import correction, corrections, with_right_ones


def judged(text: str, *wrong: str) -> dict[str, Any]:
    claims = claims_of(text)
    verdicts = [[claim not in wrong, float(claim not in wrong)] for claim in claims]
    return {"text": text, "claims": claims, "questions": claims, "verdicts": verdicts, "score": 0}


@pytest.mark.parametrize(
    ("claim", "found"),
    [
        ("An umbrella.", "A thing."),
        ("An orange ice cream.", "An orange thing."),
        ("2 blue fish.", "2 blue things."),
        ("Three red circles.", "Three red things."),
        ('The word "cup"', 'The word "cup"'),
        ("It rains.", "It rains."),
    ],
)
def test_names_are_left_out(claim: str, found: str) -> None:
    assert unnamed(claim) == found


def test_wrong_names_are_things_in_the_chosen_answer() -> None:
    answer = judged("An umbrella, a red star and 2 pink cups.", "An umbrella.", "2 pink cups.")
    pair = correction(answer, "0")
    assert pair is not None
    assert pair["chosen"]["text"] == "A thing, a red star and 2 pink things."
    assert pair["rejected"] is answer


def test_a_right_name_is_a_thing_in_the_rejected_answer() -> None:
    answer = judged('A red star, a cup and the word "bus".')
    found = set()
    for lot in range(20):
        pair = correction(answer, str(lot))
        assert pair is not None
        assert pair["chosen"] is answer
        assert pair == correction(answer, str(lot))
        found.add(pair["rejected"]["text"])
    assert found == {
        'A red thing, a cup and the word "bus".',
        'A red star, a thing and the word "bus".',
    }


def test_an_answer_that_names_nothing_makes_no_pair() -> None:
    assert correction(judged('The word "bus".', 'The word "bus"'), "0") is None


def test_the_pairs_of_a_question() -> None:
    right, other = judged("A red star."), judged("A star.")
    wrong = [judged(f"A {colour} cup.", f"A {colour} cup.") for colour in ("red", "blue", "pink")]
    pairs = corrections([right, *wrong, other], "0", 2)
    assert [pair["rejected"]["text"] for pair in pairs] == [
        "A red cup.",
        "A blue cup.",
        "A red thing.",
    ]


def test_right_answers_are_at_most_a_share_of_the_pairs() -> None:
    right, wrong = judged("A red star."), judged("A cup.", "A cup.")
    pairs = [pair for _ in range(6) for pair in corrections([right, wrong], "0", 1)]
    for share, most in ((0.0, 0), (0.25, 2), (0.5, 6), (0.9, 6)):
        kept = with_right_ones(pairs, share, 0)
        assert sum(pair["chosen"] is right for pair in kept) == most
        assert len(kept) == 6 + most
        assert kept == with_right_ones(pairs, share, 0)
