"""A judge within a scoring: what it says is kept, what it does not say is counted."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.judges import FunctionJudge
from minicpmv.evaluate.page import load_page
from minicpmv.evaluate.scoring import score_items

ITEMS = [
    Item(str(n), f"question {n}", answers=("a cat",), fields={"category": "rec"}) for n in range(6)
]
ANSWERS = {item.id: f"answer {item.id}" for item in ITEMS}


def grades(*values):
    """A judge with a grade for each item, and the items that it was asked about."""
    asked = []

    def judge(prompt, temperature):
        number = int(prompt.rpartition("answer ")[2].split()[0])
        asked.append(number)
        found = values[number]
        if isinstance(found, type):
            raise found("gone")
        return found

    return FunctionJudge(judge, "grader"), asked


def test_what_is_no_verdict_is_counted_by_its_reason(tmp_path):
    judge, _ = grades("1.0", "0.5", "perhaps", "", "I'm sorry, I cannot.", TimeoutError)
    found = score_items(
        load_page("mmvet"), ITEMS, ANSWERS, judge=judge, judgements=tmp_path / "judgements.jsonl"
    )
    assert found.rows[0].value == pytest.approx(100 * 1.5 / 6)
    assert found.rows[0].unparsed == 4
    assert found.judged == 6
    assert found.unjudged == {"garbage": 1, "empty": 1, "refused": 1, "timeout": 1}
    assert found.judge == "grader"


def test_a_run_that_was_stopped_pays_for_nothing_twice(tmp_path):
    page, kept = load_page("mmvet"), tmp_path / "judgements.jsonl"
    judge, asked = grades("1.0", "0.5", "0.2", OSError, "0.1", "0.0")
    with pytest.raises(OSError, match="gone"):
        score_items(page, ITEMS, ANSWERS, judge=judge, judgements=kept)
    assert asked == [0, 1, 2, 3]
    judge, asked = grades("0.9", "0.9", "0.9", "0.4", "0.1", "0.0")
    found = score_items(page, ITEMS, ANSWERS, judge=judge, judgements=kept)
    assert asked == [3, 4, 5]
    assert found.rows[0].value == pytest.approx(100 * 2.2 / 6)
    judge, asked = grades()
    again = score_items(page, ITEMS, ANSWERS, judge=judge, judgements=kept)
    assert asked == []
    assert again.rows == found.rows


def test_another_judge_is_asked_anew(tmp_path):
    page, kept = load_page("mmvet"), tmp_path / "judgements.jsonl"
    judge, _ = grades(*["1.0"] * 6)
    score_items(page, ITEMS, ANSWERS, judge=judge, judgements=kept)
    other = FunctionJudge(lambda prompt, temperature: "0.0", "another")
    assert score_items(page, ITEMS, ANSWERS, judge=other, judgements=kept).rows[0].value == 0


def test_without_a_judge_nothing_is_guessed():
    found = score_items(load_page("mmvet"), ITEMS, ANSWERS)
    assert (found.rows[0].value, found.rows[0].unparsed) == (0, 6)


def test_a_judge_matches_options_that_rules_cannot_read():
    options = {"A": "cat", "B": "dog"}
    items = [
        Item(str(n), "Which animal?", answers=("B",), options=options, fields={"index": n})
        for n in range(3)
    ]
    answers = {"0": "B", "1": "It is a puppy, clearly.", "2": "Something furry."}
    said = {"puppy": "B", "furry": "Z"}

    def judge(prompt, temperature):
        return next(
            letter for word, letter in said.items() if f"{word}" in prompt.rsplit("Answer:")[-1]
        )

    page = load_page("mmstar")
    assert score_items(page, items, answers).rows[0].unparsed == 2
    found = score_items(page, items, answers, judge=FunctionJudge(judge, "matcher"))
    assert found.rows[0].value == pytest.approx(200 / 3)
    assert (found.rows[0].unparsed, found.judged) == (0, 2)


def test_a_judge_says_yes_and_no():
    items = [
        Item(f"hallusion_VD_illusion_{n}_0_0", "Is it red?", answers=("Yes",),
             fields={"category": "VD", "l2-category": "illusion"})
        for n in range(2)
    ]  # fmt: skip
    answers = {items[0].id: "Crimson.", items[1].id: "Like the sky."}
    judge = FunctionJudge(lambda prompt, temperature: "Yes" if "Crimson" in prompt else "No", "j")
    found = score_items(load_page("hallusionbench"), items, answers, judge=judge)
    assert found.rows[0].value == pytest.approx(50)
    assert found.judged == 2
