"""MMMU, CMMMU, MathVista, Mantis-Eval, MIRB, Interleave and Video-MME, known by hand."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import RULES, metric
from minicpmv.evaluate.metrics.mathvista import compare, fetched
from minicpmv.evaluate.metrics.mmmu_text import read_letter, read_open
from minicpmv.evaluate.metrics.rouge import rouge_l

UPSTREAM, FORK, LMMS = RULES
ANIMALS = {"A": "cat", "B": "dog", "C": "cow"}


def value(name: str, answer: str, true, rules: str = LMMS, options=(), **fields):
    answers = (true,) if isinstance(true, str) else tuple(true)
    item = Item("1", "What?", answers=answers, options=dict(options), fields=fields)
    return metric(name).score(item, answer, rules).value


# MMMU


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(A) or (C)", "C"),
        ("A B", "B"),
        ("vitamin A is in DNA there", "A"),  # a letter that ends a word
        ("C.", "C"),
        ("I would say that it is a dog", "B"),
        ("a dog", None),  # text counts in more than five words
        ("a", None),
        ("", None),
    ],
)
def test_authors_of_mmmu_read_letters_so(answer, letter):
    assert read_letter(answer, ANIMALS) == letter


def test_authors_of_mmmu_read_everything_an_answer_may_say():
    assert read_open("The answer is 3.14159.") == {3.14}
    assert read_open("So x = 1,000 cats") == {"1,000 cats", 1000.0, 0.0}  # 000 as well
    assert read_open("5") == {5.0}
    assert read_open("It is B") == {" b", "b "}
    assert read_open("is 7\nthus 8") == {7.0, 8.0}
    assert read_open("Blue") == {"blue"}


def test_mmmu_of_lmms_eval_never_draws():
    assert value("mmmu", "B", "B", options=ANIMALS) == 1
    assert value("mmmu", "a horse", "B", options=ANIMALS) is None
    assert value("mmmu", "It is 3.141", "3.14") == 1
    assert value("mmmu", "a light blue one", "blue") == 1
    assert value("mmmu", "1,000", "1000") == 1
    assert value("mmmu", "24/7", ["24/7", "3.43"]) == 1
    assert value("mmmu", "  ", "3") is None


def test_mmmu_of_vlmevalkit_makes_two_options_of_an_open_question():
    assert value("mmmu", "It is blue", "blue", FORK) == 1
    assert value("mmmu", "A", "blue", FORK) == 1
    assert value("mmmu", "other answers", "blue", FORK) == 0
    assert value("mmmu", "red", "blue", FORK) is None
    assert value("mmmu", "B", "B", FORK, ANIMALS) == 1


def test_mmmu_reports_the_validation_split_by_subject_and_domain():
    measure = metric("mmmu")
    ids = ["dev_Art_1", "validation_Art_1", "validation_Art_Theory_2", "validation_Math_3"]
    items = [Item(name, "", answers=("A",), options=ANIMALS) for name in ids]
    scored = [(item, measure.score(item, "A" if n else "B", LMMS)) for n, item in enumerate(items)]
    rows = {row.name: (row.value, row.total) for row in measure.summarise(scored, LMMS)}
    assert rows["mmmu"] == (100, 3)
    assert rows["Art and Design"] == (100, 2)
    assert rows["Art_Theory"] == (100, 1)


# CMMMU

CHOICE = {"type": "选择", "option1": "猫", "option2": "狗", "option3": "牛", "option4": "马"}


@pytest.mark.parametrize("rules", RULES)
def test_cmmmu_reads_options_verdicts_and_gaps(rules):
    assert value("cmmmu", "(A)和(B)", "AB", rules, **CHOICE) == 1
    assert value("cmmmu", "BAD", "ABD", rules, **CHOICE) == 1  # letters in words count
    assert value("cmmmu", "A A B", "A", rules, **CHOICE) == 1
    assert value("cmmmu", "一只狗", "B", rules, **CHOICE) == 1
    assert value("cmmmu", "一只羊", "B", rules, **CHOICE) is None
    assert value("cmmmu", "这个说法是正确的。", "对", rules, type="判断") == 1
    assert value("cmmmu", "答案：错误", "错", rules, type="判断") == 1
    assert value("cmmmu", "不对", "对", rules, type="判断") == 1  # for the 对 in it
    assert value("cmmmu", "是否正确", "对", rules, type="判断") is None
    assert value("cmmmu", "我不知道", "对", rules, type="判断") is None
    assert value("cmmmu", "答案是3.5", "3.50", rules, type="填空") == 1
    assert value("cmmmu", "结果为北京", "北京", rules, type="填空") == 1
    assert value("cmmmu", "", "北京", rules, type="填空") is None


def test_vlmevalkit_counts_a_gap_once_for_everything_that_is_right():
    answer = "北京是北京\n所以北京市"  # "北京" and "北京市"
    assert value("cmmmu", answer, "北京", FORK, type="填空") == 2
    assert value("cmmmu", answer, "北京", LMMS, type="填空") == 1


# MathVista


def number(kind: str, true: str, **more):
    fields = {"question_type": "free_form", "answer_type": kind, **more}
    return Item("1", "", answers=(true,), fields=fields)


def test_mathvista_of_vlmevalkit_compares_whole_numbers_and_decimals():
    for rules in (UPSTREAM, FORK):
        assert compare(number("integer", "14"), " 14 ", rules).value == 1
        assert compare(number("integer", "14"), "15", rules).value == 0
        assert compare(number("integer", "14"), "14.0", rules).value is None
        assert compare(number("integer", "14"), "It is 14", rules).value is None
        assert compare(number("float", "1.50"), "1.5", rules).value == 1
        assert compare(number("list", "[1, 2]"), "[1, 2]", rules).value == 0  # never right
        assert compare(number("text", "None"), "whatever", rules).value == 1  # compared with None


def test_vlmevalkit_takes_a_right_zero_for_nothing():
    assert fetched(number("integer", "14"), "14", FORK)
    assert not fetched(number("integer", "14"), "15", FORK)
    assert not fetched(number("integer", "0"), "0", FORK)
    assert compare(number("integer", "0"), "0", FORK).value == 1


def test_mathvista_options_are_letters_or_texts():
    fields = {"question_type": "multi_choice", "answer_type": "text", "choices": "['3/11', '8/11']"}
    item = Item("1", "", answers=("8/11",), fields=fields)
    assert metric("mathvista").score(item, "(B) 8/11", FORK).value == 1
    assert metric("mathvista").score(item, "3/11", FORK).value == 0
    assert metric("mathvista").score(item, "8/11", LMMS).value == 1
    assert metric("mathvista").score(item, "It is B", LMMS).value is None
    assert compare(item, "The answer is (b)", LMMS).value == 1
    assert compare(item, "8-11", LMMS).value == 1  # the nearest
    assert compare(item, "", LMMS).value is None


def test_mathvista_of_lmms_eval_rounds_as_the_item_says():
    assert metric("mathvista").score(number("float", "3.1", precision=1.0), "3.14", LMMS).value == 1
    assert compare(number("integer", "3"), "3.9", LMMS).value == 1  # decimals are cut off
    assert compare(number("list", "[1, 2]"), "[1, 2]", LMMS).value == 1
    assert compare(number("integer", "3"), "three", LMMS).value is None


# Several pictures


def test_mantis_takes_the_first_letter_after_the_announcement():
    assert value("mantis", "B", "B", options=ANIMALS) == 1
    assert value("mantis", "It has four legs. Final Answer: (b)", "(B) dog", options=ANIMALS) == 1
    assert value("mantis", "The dog", "B", options=ANIMALS) is None  # T is no option
    assert value("mantis", "Cow", "B", options=ANIMALS) == 0
    assert value("mantis", "Two", "two", question_type="short-answer") == 1
    assert value("mantis", "Two.", "two", question_type="short-answer") == 0


def test_mirb_has_letters_and_free_answers_and_means_of_groups():
    assert value("mirb", "B", "B") == 1
    assert value("mirb", "B. dog", "B") == 1
    assert value("mirb", "(B)", "B") is None
    assert value("mirb", "There are 3 of them", "3") == 1
    assert value("mirb", "An Attentive Paper", "attentive paper") == 1
    measure = metric("mirb")
    said = [("food", "A"), ("food", "A"), ("food", "A"), ("sightseeing", "B")]
    items = [
        Item(str(n), "", answers=("A",), fields={"subset": s}) for n, (s, _) in enumerate(said)
    ]
    scored = [(item, measure.score(item, said[n][1], LMMS)) for n, item in enumerate(items)]
    rows = {row.name: row.value for row in measure.summarise(scored, LMMS)}
    assert (rows["mirb"], rows["Knowledge"], rows["food"]) == (75, 50, 100)
    assert "Reasoning" not in rows  # not of a part of its subsets


def test_interleave_has_letters_and_rouge():
    choice = {"question_type": "multi-choice"}
    assert value("interleave", "(b)", "B", **choice) == 1
    assert value("interleave", "a dog", "A", **choice) == 1
    assert value("interleave", "D. cow", "d", **choice) == 1
    assert value("interleave", "the dog", "A", **choice) is None
    free = {"question_type": "open-ended"}
    assert value("interleave", "", "a red ball", **free) == 0
    assert value("interleave", "...", "a red ball", **free) == 0
    assert value("interleave", "a red ball", "a red ball", **free) == pytest.approx(1, abs=1e-6)


def test_rouge_l_counts_every_word_once():
    assert rouge_l("a b c", "a x c") == pytest.approx(2 / 3)
    assert rouge_l("a a b", "a b") == pytest.approx(1)
    assert rouge_l("c. a", "a b c. d") == pytest.approx(2 * 1 * 0.5 / 1.5)
    with pytest.raises(ValueError, match="The reference is empty"):
        rouge_l("a", "")


@pytest.mark.parametrize(
    ("answer", "letter", "lmms"),
    [
        ("B", "B", "B"),
        ("The best answer is: C", "C", "C"),
        ("According to the video, C", "A", "C"),
        ("Because it barks", "B", "B"),
        ("The correct option is B", "B", "B"),
        ("a long answer that has more than ten words and names no letter", None, None),
        ("dog", "B", None),
        ("", None, None),
    ],
)
def test_video_mme_takes_the_first_capital(answer, letter, lmms):
    item = Item("1", "", answers=("B",), options={"A": "A. cat", "B": "B. dog"})
    for rules, expected in ((FORK, letter), (UPSTREAM, letter), (LMMS, lmms)):
        assert metric("video-mme").score(item, answer, rules).parsed == expected


def test_video_mme_keeps_the_questions_of_a_video_together():
    measure, scored = metric("video-mme"), []
    for place in range(60):
        fields = {"videoID": place // 3, "duration": "short" if place < 30 else "long"}
        item = Item(str(place), "", answers=("B",), options=ANIMALS, fields=fields)
        scored.append((item, measure.score(item, "B" if place // 3 % 2 else "A", LMMS)))
    headline, *parts = measure.summarise(scored, LMMS)
    assert [row.name for row in parts] == ["long", "short"]
    alone = metric("mcq").summarise(scored, LMMS)[0]
    assert headline.high - headline.low > 1.3 * (alone.high - alone.low)
