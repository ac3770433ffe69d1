"""MME, POPE and HallusionBench on answers whose score is known by hand."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import RULES, metric

UPSTREAM, FORK, LMMS = RULES


@pytest.mark.parametrize(
    ("answer", "words", "beginning"),
    [
        ("Yes", "yes", "yes"),
        ("no.", "no", "no"),
        ("Yes, there is a dog.", "yes", "yes"),
        ("yes and no", None, "yes"),
        ("No, not that I know: yes", None, "no"),
        ("Note that it is", None, "no"),
        ("There is, yes!", "yes", None),
        ("y", None, "yes"),
        ("N.", None, "no"),
        ("eyes", None, "yes"),
        ("Y.e.s", "yes", "yes"),
        ("", None, None),
        ("   ", None, None),
        ("None", None, "no"),
        ("是的", None, None),
    ],
)
def test_yes_and_no_are_read_in_two_ways(answer, words, beginning):
    item = Item("1", "Is it?", answers=("Yes",))
    for rules, expected in ((UPSTREAM, words), (FORK, words), (LMMS, beginning)):
        for name in ("yes-no", "mme"):
            scored = metric(name).score(item, answer, rules)
            assert scored.parsed == expected, rules
            assert scored.value == (None if expected is None else float(expected == "yes"))


def test_a_reference_is_yes_or_no_in_any_form():
    for true in ("No", "no.", "0", "false"):
        assert metric("yes-no").score(Item("1", "", answers=(true,)), "no", UPSTREAM).value == 1
    with pytest.raises(ValueError, match="Item '7' has the answer 'maybe'"):
        metric("yes-no").score(Item("7", "", answers=("maybe",)), "no", UPSTREAM)
    with pytest.raises(ValueError, match="Item '7' has 0 answers"):
        metric("yes-no").score(Item("7", ""), "no", UPSTREAM)


# MME


def mme_rows(answers: dict[str, list[str]], rules: str = FORK):
    """All is true; answers of each subtask, two of each picture."""
    measure, scored = metric("mme"), []
    for subtask, said in answers.items():
        for place, answer in enumerate(said):
            fields = {"category": subtask, "image_path": f"{subtask}/{place // 2}.jpg"}
            item = Item(f"{subtask}{place}", "", answers=("Yes",), fields=fields)
            scored.append((item, measure.score(item, answer, rules)))
    return {row.name: row for row in measure.summarise(scored, rules)}


def test_mme_adds_accuracy_and_pictures_that_are_all_right():
    table = mme_rows({"count": ["yes", "yes", "yes", "no"], "code_reasoning": ["no", "what"]})
    assert next(iter(table)) == "perception + cognition (2 of 14 subtasks)"
    assert table["count"].value == 75 + 50
    assert table["code_reasoning"].value == 0
    assert table["code_reasoning"].unparsed == 1
    assert table["perception (1 of 10 subtasks)"].value == 125
    assert table["perception + cognition (2 of 14 subtasks)"].value == 125
    assert table["count"].low < 125 < table["count"].high


def test_mme_of_all_subtasks_is_at_most_2800_and_never_certain():
    from minicpmv.evaluate.metrics.mme import SUBTASKS

    assert len(SUBTASKS) == 14
    table = mme_rows({subtask: ["yes"] * 4 for subtask in SUBTASKS})
    headline = table["perception + cognition"]
    assert (headline.value, headline.unit, headline.total) == (2800, "points", 56)
    assert headline.low < 2700
    assert (table["perception"].value, table["cognition"].value) == (2000, 800)
    with pytest.raises(ValueError, match="field `category`"):
        metric("mme").summarise(
            [(Item("1", ""), metric("mme").score(Item("1", "", answers=("no",)), "no", FORK))], FORK
        )


# POPE


def pope_rows(pairs, rules: str):
    measure, scored = metric("pope"), []
    for place, (true, answer, category) in enumerate(pairs):
        item = Item(str(place), "", answers=(true,), fields={"category": category})
        scored.append((item, measure.score(item, answer, rules)))
    return {row.name: row for row in measure.summarise(scored, rules)}


PAIRS = [
    ("Yes", "Yes", "random"),
    ("Yes", "Yes.", "random"),
    ("Yes", "no", "popular"),
    ("Yes", "I cannot say", "popular"),
    ("No", "yes", "popular"),
    ("No", "no", "random"),
]


def test_pope_gives_f1_accuracy_precision_and_recall():
    table = pope_rows(PAIRS, FORK)
    assert next(iter(table)) == "F1"
    assert table["precision"].value == pytest.approx(100 * 2 / 3)
    assert table["recall"].value == pytest.approx(100 * 2 / 4)  # not read is missed
    assert table["F1"].value == pytest.approx(100 * 4 / 7)
    assert table["accuracy"].value == pytest.approx(100 * 3 / 6)
    assert table["yes ratio"].value == pytest.approx(100 * 3 / 6)
    assert (table["F1"].total, table["F1"].unparsed) == (6, 1)
    assert table["random F1"].value == 100
    assert table["popular F1"].value == 0


def test_pope_of_lmms_eval_wants_the_word_alone():
    table = pope_rows(PAIRS, LMMS)
    assert table["accuracy"].value == pytest.approx(100 * 2 / 6)  # "Yes." is not read
    assert table["recall"].value == pytest.approx(100 * 1 / 2)  # nor counted as missed
    assert table["yes ratio"].value == pytest.approx(100 * 4 / 6)  # that of the references


def test_a_question_of_several_categories_counts_in_each():
    table = pope_rows([("Yes", "yes", "random,popular"), ("No", "yes", "random")], FORK)
    assert table["accuracy"].value == pytest.approx(100 * 2 / 3)
    assert table["popular accuracy"].value == 100
    assert table["random accuracy"].value == 50


# HallusionBench


def hallusion_rows(answers: dict[str, str], rules: str, category: str = ""):
    """By id; all is true."""
    measure, scored = metric("hallusionbench"), []
    for item_id, answer in answers.items():
        parts = item_id.split("_")
        fields = {"category": parts[1], "l2-category": parts[2]}
        item = Item(item_id, "", answers=("Yes",), fields=fields)
        scored.append((item, measure.score(item, answer, rules)))
    return {row.name: row for row in measure.summarise(scored, rules)}


def test_hallusionbench_of_figures_and_questions():
    answers = {
        "hallusion_VD_ocr_0_0_0": "Yes",
        "hallusion_VD_ocr_0_0_1": "Yes.",
        "hallusion_VD_ocr_0_1_0": "no",
        "hallusion_VD_ocr_0_1_1": "yes",
        "hallusion_VS_ocr_0_0_0": "yes and no",
    }
    table = hallusion_rows(answers, LMMS)
    assert table["aAcc"].value == pytest.approx(80)
    assert table["fAcc"].value == pytest.approx(100 * 2 / 3)  # VD 0, VD 1, VS 0
    assert table["qAcc"].value == pytest.approx(100 * 2 / 3)  # VD 0, VD 1, VS 0
    table = hallusion_rows(answers, FORK)
    assert table["aAcc"].value == pytest.approx(60)  # yes and no is not read
    # The sets of both categories that are called ocr are one: figure 0 has a wrong answer.
    assert table["fAcc"].value == 0
    assert table["qAcc"].value == pytest.approx(50)
    mean = table["mean of aAcc, fAcc, qAcc"]
    assert mean.value == pytest.approx((60 + 0 + 50) / 3)
    assert (mean.total, mean.unparsed) == (5, 1)
    assert next(iter(table.values())) is mean
    assert table["VD aAcc"].value == 75


def test_hallusionbench_needs_to_know_its_figures():
    item = Item("12", "", answers=("Yes",))
    measure = metric("hallusionbench")
    with pytest.raises(ValueError, match="'12' of HallusionBench has neither the fields set_id"):
        measure.summarise([(item, measure.score(item, "yes", FORK))], FORK)
