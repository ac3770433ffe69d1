"""Who judges: the truth of a scene, and probabilities of yes and no."""

import dataclasses

import pytest

from minicpmv.scenes.questions.figures import caption
from minicpmv.scenes.render import render
from minicpmv.train.preferences.claims import claims_of, question_of
from minicpmv.train.preferences.judge import (
    Asking,
    ModelJudge,
    SceneJudge,
    Verdict,
    first_tokens,
    is_true,
)


@pytest.mark.parametrize("kind", ["few", "many", "icons", "word"])
def test_every_true_caption_is_true(kind: str) -> None:
    for seed in range(25):
        scene = render(seed, "train", kind=kind)
        for claim in claims_of(caption(scene)):
            assert is_true(claim, scene), (seed, caption(scene), claim)


def test_numbers_and_colours_count() -> None:
    scene = render(0, "train", kind="few")
    red = dataclasses.replace(scene.figures[0], shape="circle", colour="red")
    blue = dataclasses.replace(red, colour="blue")
    scene = dataclasses.replace(scene, figures=(red, red, blue), texts=())
    truths = {
        "A red circle.": True,
        "2 red circles.": True,
        "Two red circles.": True,
        "3 red circles.": False,
        "3 circles.": True,
        "A green circle.": False,
        "A red star.": False,
        "No stars.": True,
        'the word "CAT"': False,
        "It is nice.": None,
        "A circle beside a star.": None,
    }
    assert {claim: is_true(claim, scene) for claim in truths} == truths
    objects = {"A green circle.": True, "5 red circles.": True, "A red bus.": False, "Well.": None}
    assert {claim: is_true(claim, scene, objects=True) for claim in objects} == objects


def test_a_row_says_how_its_picture_was_drawn() -> None:
    rest = {"scene": {"seed": 4, "split": "train", "kind": "few"}}
    claim = claims_of(caption(render(4, "train", kind="few")))[0]
    asked = [Asking(claim, question_of(claim)), Asking("It is nice.", "Is it nice?")]
    assert SceneJudge().verdicts([], rest, asked) == [Verdict(True, 1.0), None]
    with pytest.raises(ValueError, match="needs rows with a column scene"):
        SceneJudge().verdicts([], {}, asked)


def test_yes_against_no() -> None:
    table = {"a?": (0.2, 0.1), "b?": (0.1, 0.1), "c?": (0.0, 0.0)}
    judge = ModelJudge(lambda pictures, questions: [table[q] for q in questions])
    found = judge.verdicts([], {}, [Asking("", "a?"), Asking("", "b?"), Asking("", "c?")])
    assert [verdict and verdict.accepted for verdict in found] == [True, False, None]


def test_who_says_neither_yes_nor_no_has_no_verdict() -> None:
    """Shares of next to nothing are chance: nano gave 0.4 % to both after a sentence that it did
    not know, and accepted wrong claims more often than right ones."""
    table = {"a?": (0.003, 0.001), "b?": (0.04, 0.02), "not b?": (0.01, 0.02)}
    judge = ModelJudge(lambda pictures, questions: [table[q] for q in questions])
    asked = [Asking("", "a?"), Asking("", "b?"), Asking("", "b?", "not b?")]
    found = judge.verdicts([], {}, asked)
    assert [verdict is None for verdict in found] == [True, False, True]


def test_a_threshold() -> None:
    judge = ModelJudge(lambda pictures, questions: [(0.2, 0.1)], threshold=0.7)
    (found,) = judge.verdicts([], {}, [Asking("", "a?")])
    assert found is not None
    assert not found.accepted
    assert found.yes == pytest.approx(2 / 3)


def test_the_opposite_takes_a_habit_of_saying_yes_away() -> None:
    table = {"a?": (0.6, 0.4), "not a?": (0.9, 0.1)}
    judge = ModelJudge(lambda pictures, questions: [table[q] for q in questions])
    (plain,) = judge.verdicts([], {}, [Asking("", "a?")])
    (both,) = judge.verdicts([], {}, [Asking("", "a?", "not a?")])
    assert plain is not None
    assert both is not None
    assert (plain.accepted, both.accepted) == (True, False)
    assert both.yes == pytest.approx(0.7 / 2)


class _Pieces:
    """A tokenizer that writes "Yes" in two pieces, and a blank as one of its own."""

    table = {"yes": [5], " yes": [1, 5], "Yes": [6, 7], " Yes": [8]}
    texts = {1: " ", 5: "yes", 6: "Y", 7: "es", 8: " Yes"}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self.table[text]

    def decode(self, ids: list[int]) -> str:
        return self.texts[ids[0]]


def test_first_tokens() -> None:
    assert first_tokens(_Pieces(), ("yes", "Yes")) == [5, 6, 8]
