"""A judge says which option an answer means where rules cannot."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics.contract import Scored
from minicpmv.evaluate.metrics.judged.matching import letter_of, word_of
from tests.helpers.scripted_judge import answer_in_turn, judged

OPTIONS = {"A": "cat", "B": "dog", "C": "cow"}
CHOICE = Item("0", "Which animal is it?", answers=("B",), options=OPTIONS)
CHINESE = Item("1", "这是什么动物？", answers=("B",), options={"A": "猫", "B": "狗"})
YES_NO = Item("2", "Is it a cat?", answers=("Yes",))
CHINESE_YES_NO = Item("3", "这是猫吗？", answers=("No",))


class OneWord:
    """Reads an answer only where it is a letter, or yes or no."""

    name = "one-word"

    def score(self, item, answer, rules):
        words = (*item.options, "Yes", "No")
        return Scored(float(answer == item.answers[0]) if answer in words else None, answer)

    def summarise(self, scored, rules):
        return []


def match(*pairs, replies=()):
    return judged(OneWord(), pairs, answer_in_turn(*replies))


def test_only_what_rules_cannot_read_is_asked():
    pairs = [(CHOICE, "B"), (CHOICE, "A"), (CHOICE, "the puppy"), (CHOICE, " ")]
    scored, judge = match(*pairs, replies=["B"])
    assert [each.value for each in scored] == [1, 0, 1, None]
    assert len(judge.asked) == 1
    assert judge.asked[0].endswith("Options:\nA. cat\nB. dog\nC. cow\nAnswer: the puppy\nLetter:")
    assert scored[2].detail["by"] == "judge"


def test_no_option_is_wrong_and_no_guess():
    scored, _ = match((CHOICE, "a horse"), replies=["Z"])
    assert (scored[0].value, scored[0].parsed) == (0, "Z")


def test_a_judge_that_says_nothing_leaves_the_answer_unread():
    pairs = [(CHOICE, "one"), (CHOICE, "two"), (CHOICE, "three"), (CHOICE, "four")]
    silent = [*["A or B"] * 3, *[TimeoutError] * 3, *[""] * 3, *["As an AI, I cannot."] * 3]
    scored, _ = match(*pairs, replies=silent)
    assert [each.value for each in scored] == [None] * 4
    assert [each.detail["judge"] for each in scored] == ["garbage", "timeout", "empty", "refused"]


def test_the_judge_is_asked_in_the_language_of_the_question():
    scored, judge = match((CHINESE, "小狗"), (CHINESE_YES_NO, "不像"), replies=["B", "No"])
    assert [each.value for each in scored] == [1, 1]
    assert judge.asked[0].endswith("A. 猫\nB. 狗\n回答：小狗\n字母：")
    assert judge.asked[1].endswith("问题：这是猫吗？\n回答：不像\n输出：")


def test_yes_and_no():
    pairs = [(YES_NO, "a cat indeed"), (YES_NO, "it barks"), (YES_NO, "who knows")]
    scored, judge = match(*pairs, replies=["Yes.", "No", "Unknown"])
    assert [(each.value, each.parsed) for each in scored] == [(1, "Yes"), (0, "No"), (0, "Unknown")]
    assert "Yes, No or Unknown" in judge.asked[0]


def test_an_open_question_is_left_alone():
    scored, judge = match((Item("4", "What is it?", answers=("a cat",)), "a cat"))
    assert judge.asked == []
    assert scored[0].value is None


def test_the_same_question_is_asked_once():
    scored, judge = match((CHOICE, "puppy"), (CHOICE, "puppy"), replies=["B"])
    assert [each.value for each in scored] == [1, 1]
    assert len(judge.asked) == 1


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        (" b", None),
        ("(B)", "B"),
        ("B. dog", "B"),
        ("The answer is B.", "B"),
        ("B, or rather C", None),
        ("Z", "Z"),
        ("E", None),
        ("", None),
    ],
)
def test_letters(reply, letter):
    assert letter_of(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    ("reply", "word"),
    [("yes", "Yes"), ("NO!", "No"), ("Yes and no", None), ("unknown", "Unknown"), ("Nope", None)],
)
def test_words(reply, word):
    assert word_of(reply) == word
