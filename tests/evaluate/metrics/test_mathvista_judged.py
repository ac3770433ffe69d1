"""MathVista with a judge that takes short answers out of long ones; open questions of MMMU."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import RULES
from tests.helpers.scripted_judge import answer_in_turn, judged


def item(kind: str, true: str, **more):
    fields = {"question_type": "free_form", "answer_type": kind, "precision": 1.0, **more}
    return Item("1", "How much?", answers=(true,), fields=fields)


CHOICE = item("text", "8/11", question_type="multi_choice", choices=["3/11", "8/11"])


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    ("asked", "answer", "reply", "value"),
    [
        (item("integer", "14"), "There are 14.", "14", 1),
        (item("integer", "14"), "There are 15.", "Final answer: 15", 0),
        (item("integer", "14"), "There are 14.", "fourteen", None),
        (item("float", "1.5"), "About 1.5 m", "1.5", 1),
        (item("float", "1.5"), "I cannot say", "none", 0),
        (CHOICE, "Eight of eleven", "B", 1),
        (CHOICE, "Three of eleven", "(A) 3/11", 0),
    ],
)
def test_the_judges_extract_is_compared_by_rules(rules, asked, answer, reply, value):
    (scored,), judge = judged("mathvista", [(asked, answer)], answer_in_turn(reply), rules)
    assert scored.value == value
    assert scored.detail["by"] == "judge"
    assert answer in judge.asked[0]


def test_short_and_empty_answers_need_no_judge():
    pairs = [
        (item("integer", "14"), "14"),
        (item("integer", "14"), "15"),
        (CHOICE, "B"),
        (CHOICE, ""),
    ]
    scored, judge = judged("mathvista", pairs, answer_in_turn())
    assert [each.value for each in scored] == [1, 0, 1, None]
    assert judge.asked == []


def test_the_judge_is_told_what_is_wanted():
    asked = [CHOICE, item("float", "2.5"), item("integer", "2"), item("float", "2", precision=None)]
    pairs = [(each, f"it is so {place}") for place, each in enumerate(asked)]
    _, judge = judged("mathvista", pairs, answer_in_turn(*["x"] * 20))
    wanted = [prompt.rpartition("Wanted: ")[2].partition("\n")[0] for prompt in judge.asked]
    assert sorted(set(wanted)) == [
        "a number", "a number with 1 decimal", "a whole number", "the letter of an option",
    ]  # fmt: skip
    assert "Options: (A) 3/11 (B) 8/11\nWanted: the letter" in judge.asked[0]


def test_an_open_question_of_mmmu_is_matched_with_its_reference():
    open_question = Item("validation_Art_1", "Which colour?", answers=("blue",))
    for rules, asked in (("vlmevalkit-fork", 1), ("lmms-eval", 0)):
        (scored,), judge = judged("mmmu", [(open_question, "like the sky")], lambda *_: "A", rules)
        assert len(judge.asked) == asked
        assert scored.value == asked
    assert (
        "B. Other Answers"
        in judged("mmmu", [(open_question, "like the sky")], lambda *_: "B", "vlmevalkit")[1].asked[
            0
        ]
    )
