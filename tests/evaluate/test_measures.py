"""Measures on answers whose score is known by hand."""

from unittest import mock

import pytest

from minicpmv.evaluate.metrics import distance as distance_of
from minicpmv.evaluate.scenes import measures, metrics, tasks
from minicpmv.evaluate.scenes import samples as items
from minicpmv.scenes import Question
from minicpmv.scenes.examples.draw import draw_example

# Metrics


def test_answers_are_compared_by_what_they_say():
    assert metrics.is_right("Grey.", "grey")
    assert metrics.is_right("gray", "grey")
    assert metrics.is_right("The circle", "circle")
    assert metrics.is_right("three", "3")
    assert metrics.is_right("1,200", "1200")
    assert metrics.is_right("$3.50", "3.50")
    assert metrics.is_right("top", "centre", "top")
    assert not metrics.is_right("30", "3")
    assert not metrics.is_right("3.5", "35")
    assert not metrics.is_right("-2", "2")
    assert not metrics.is_right("", "no")


def test_vqa_accuracy_counts_three_of_ten_people_as_wholly_right():
    people = ["red"] * 2 + ["pink"] * 8
    # Left out is one of the 2 (then 1 of 9 agrees) or one of the 8 (then 2 of 9 agree).
    assert metrics.vqa_accuracy("red", people) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert metrics.vqa_accuracy("Pink", people) == 1
    assert metrics.vqa_accuracy("blue", people) == 0


def test_yes_and_no_are_read_off_the_beginning():
    assert metrics.yes_or_no("Yes, there is a red circle.") == "yes"
    assert metrics.yes_or_no("no") == "no"
    assert metrics.yes_or_no("nothing") is None
    assert metrics.yes_or_no("") is None


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        ("(B)", 1),
        ("B.", 1),
        ("B. blue", 1),
        ("blue", 1),
        ("The answer is B.", 1),
        ("a red", 0),  # the option's text, not its letter
        ("A", 0),
        ("D", None),
        ("Blue and red", None),
        ("", None),
    ],
)
def test_an_option_is_chosen_by_letter_or_by_text(answer, index):
    assert metrics.chosen_option(answer, ["red", "blue", "green"]) == index


def test_numbers_may_be_off_by_a_twentieth():
    assert metrics.is_close("95", "100")
    assert not metrics.is_close("94.9", "100")
    assert metrics.is_close("21", "20")
    assert metrics.is_close("1,050", "1000")
    assert metrics.is_close("12 %", "12%")
    assert metrics.is_close("-2.1", "-2")
    assert metrics.is_close("0", "0")
    assert not metrics.is_close("0.01", "0")
    assert metrics.is_close("May", "may")
    assert not metrics.is_close("nan", "3")


def test_edit_distance_of_known_pairs():
    assert metrics.edit_distance("kitten", "sitting") == 3
    assert metrics.edit_distance("", "abc") == 3
    assert metrics.edit_distance("abc", "abc") == 0
    assert metrics.character_error_rate(["abc", "x"], ["abd", "xy"]) == pytest.approx(2 / 5)
    assert metrics.character_error_rate(["a b"], ["a\nb"]) == 0  # a line break is a space
    assert metrics.character_error_rate(["ab"], ["AB"]) == 1


def test_printed_text_is_found_inside_an_answer():
    assert metrics.contains_text('It says "OPEN\ndaily".', "open Daily")
    assert not metrics.contains_text("OPE", "open")


def test_anls_forgives_less_than_half():
    assert metrics.anls("$3.5", "$3.50") == pytest.approx(0.8)
    assert metrics.anls("Jane", "JANE") == 1
    assert metrics.anls("ab", "cb") == 0  # half wrong
    assert metrics.anls("Anne", "Maria", "Anna") == pytest.approx(0.75)


def test_cell_f1_of_known_tables():
    truth = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
    assert metrics.cell_f1(truth, truth) == 1
    assert metrics.cell_f1("|a|b|\n|---|:---:|\n|1|2|\n|3|4|", truth) == 1
    # 4 of the 6 cells, nothing wrong: precision 1, recall 2/3.
    assert metrics.cell_f1("| a | b |\n|---|---|\n| 1 | 2 |", truth) == pytest.approx(0.8)
    assert metrics.cell_f1("| a | b |\n|---|---|\n| 1 | 9 |\n| 3 | 4 |", truth) == pytest.approx(
        5 / 6
    )
    assert metrics.cell_f1("no table", truth) == 0
    assert metrics.markdown_rows("Here:\n| a |  |\n|---|---|\n| - | 1 |") == [["a", ""], ["-", "1"]]


# Multiple choice and forms of answers


def test_options_move_round_and_the_right_letter_with_them():
    question = Question("choice", "What colour is it?\nA. red\nB. dark blue\nC. green", "B")
    turned = items.rotations(question)
    assert [each.answer for each in turned] == ["B", "A", "C"]
    assert turned[1].text == "What colour is it?\nA. dark blue\nB. green\nC. red"
    for each in turned:
        spans = items.option_spans(each.text)
        start, end = spans["ABC".index(each.answer)]
        assert each.text[start:end] == "dark blue"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which way? A. left B. up, too\nAnswer with the letter.", ["left", "up, too"]),
        ("Which? (A) one (B) two (C) three", ["one", "two", "three"]),
        ("Which?\nA) 1\nB) 2", ["1", "2"]),
        ("Is there a star?", []),
        ("Is this A or B?", []),
    ],
)
def test_options_are_found_in_the_ways_people_write_them(question, options):
    assert [question[start:end] for start, end in items.option_spans(question)] == options


def test_solved_examples_and_the_answer_after_them_have_one_form():
    for seed in range(40):
        turns = draw_example(seed, "test", "few_shot").turns
        shown = [turn.answer for turn in turns]
        assert len({measures.form(each, shown, turns[-1].spelt) for each in shown}) == 1, shown


@pytest.mark.parametrize(
    ("answer", "shown", "same"),
    [
        ("blue star", ["red circle", "green ring"], True),
        ("star blue", ["red circle", "green ring"], False),
        ("BLUE star", ["RED circle", "GREEN ring"], True),
        ("blue star", ["RED circle", "GREEN ring"], False),
        ("star/blue", ["circle/red", "ring/green"], True),
        ("star, blue", ["circle/red", "ring/green"], False),
        ("shape=star", ["shape=ring", "shape=heart"], True),
        ("figure=star", ["shape=ring", "shape=heart"], False),
        ('{"colour": "blue"}', ['{"colour": "red"}', '{"colour": "green"}'], True),
        ("blue", ['{"colour": "red"}', '{"colour": "green"}'], False),
        ("5", ["2", "1"], True),
        ("five", ["2", "1"], False),
        ("2 stars", ["3 circles", "4 crosses"], True),
        ("It is an orange star.", ["It is a red ring.", "It is a blue heart."], True),
        ("It is orange.", ["It is a red ring.", "It is a blue heart."], False),
        ("It says Box.", ["It says tree.", "It says BOX."], True),
        ("Box", ["It says tree.", "It says BOX."], False),
    ],
)
def test_the_form_of_an_answer_is_what_is_left_without_its_content(answer, shown, same):
    assert (measures.form(answer, shown) == measures.form(shown[-1], shown)) is same


def test_only_tasks_scored_with_edit_distances_need_rapidfuzz():
    assert not tasks.needs_edit_distance(["yes-no", "counting", "table", "video"])
    assert all(map(tasks.needs_edit_distance, (["reading"], ["page", "open"], ["document"])))
    for name, part in tasks.SUBTASKS.items():
        (item,) = items.draw_samples(part.draw, split="test", seed=5, number=1)
        with mock.patch.object(distance_of, "levenshtein") as distance:
            distance.return_value.distance.return_value = 0
            answers = tuple("something" for _ in item.examples)
            given = tuple(map(part.scorer, item.examples, answers))
            for measure in part.measures:
                measure.compute([measures.Result(item, answers, given)])
        assert distance.called == tasks.needs_edit_distance([name]), name
