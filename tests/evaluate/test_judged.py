"""Metrics with a judge, on replies whose score is known by hand."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics.judged import unjudged
from minicpmv.evaluate.metrics.judged.llava_bench import grades_of
from minicpmv.evaluate.metrics.judged.mm_vet import grade_of
from minicpmv.evaluate.metrics.judged.mmhal import rating_of
from minicpmv.evaluate.metrics.judged.video_chatgpt import grade_of as score_of
from tests.helpers.scripted_judge import answer_in_turn, judged, table


def item(number=0, **more):
    fields = more.pop("fields", {})
    more = {"question": "What is it?", "answers": ("a cat",), **more}
    return Item(str(number), fields=fields, **more)


# MM-Vet


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("0.7", 0.7),
        (" 1.0 |", 1.0),
        ("1", 1.0),
        ("0", 0.0),
        ("0.5 since one is missing", 0.5),
        ("| 0.3", 0.3),
        ("1.1", None),
        ("-0.1", None),
        ("seven", None),
        ("nan", None),
        ("inf", None),
        ("", None),
    ],
)
def test_grades_of_mm_vet(reply, grade):
    assert grade_of(reply) == grade


def test_mm_vet():
    pairs = [
        (item(0, answers=("-1<AND>-5",), fields={"category": "ocr,math"}), "x = -1"),
        (item(1, fields={"capability": "rec"}), "a cat | or a dog"),
        (item(2, fields={"category": "rec,know,gen"}), "a horse"),
        (item(3, fields={"category": "ocr"}), "a bird"),
    ]
    replies = answer_in_turn("0.5", "1.0", *["out of order"] * 4, "0.2", *["2.0"] * 5)
    scored, judge = judged("mmvet", pairs, replies)
    assert [each.value for each in scored] == [0.5, 1.0, 0.2, None]
    assert scored[3].detail == {"judge": "garbage", "said": "2.0"}
    rows = table("mmvet", pairs, scored)
    assert next(iter(rows.values())).value == pytest.approx(42.5)
    assert rows["mmvet"].unparsed == 1
    assert {name: row.value for name, row in rows.items() if name != "mmvet"} == {
        "rec": pytest.approx(60),
        "ocr": pytest.approx(25),
        "know": pytest.approx(20),
        "gen": pytest.approx(20),
        "math": pytest.approx(50),
    }
    assert judge.asked[0].endswith("| -1 <AND> -5 | x = -1 |")
    assert judge.asked[1].endswith("| a cat / or a dog |")


# LLaVA-Bench


@pytest.mark.parametrize(
    ("reply", "grades"),
    [
        ("8 7\nThe first is better.", (8, 7)),
        ("8.5, 9", (8.5, 9)),
        (" 10 10 ", (10, 10)),
        ("Assistant 1: 8 Assistant 2: 7", None),
        ("8", None),
        ("8 7 6", None),
        ("0 7", None),
        ("8 11", None),
        ("nan 3", None),
        ("\u516b \u4e03", None),
        ("The first is better.\n8 7", None),
    ],
)
def test_grades_of_llava_bench(reply, grades):
    assert grades_of(reply) == grades


def test_llava_bench():
    def asked(number, category):
        fields = {"caption": "A cat.", "gpt4_ans": "It is a cat.", "category": category}
        return item(number, fields=fields)

    pairs = [(asked(0, "conv"), "yes"), (asked(1, "conv"), "no"), (asked(2, "detail"), "red")]
    scored, judge = judged("llava-bench", pairs, answer_in_turn("8 6\nx", "10 9", "6 9"))
    rows = table("llava-bench", pairs, scored)
    assert {name: row.value for name, row in rows.items()} == {
        "llava-bench": pytest.approx(100 * 24 / 24),
        "conv": pytest.approx(100 * 15 / 18),
        "detail": pytest.approx(150),
    }
    assert "[Assistant 1]\nIt is a cat." in judge.asked[0]
    assert "[Assistant 2]\nyes" in judge.asked[0]


def test_an_answer_without_a_verdict_counts_nothing_beside_the_mean_reference():
    fields = {"caption": ["A cat."], "gpt_answer": "A cat.", "category": "conv"}
    pairs = [
        (item(0, fields=fields), "a"),
        (item(1, fields=fields), "b"),
        (item(2, fields=fields), "c"),
    ]
    replies = answer_in_turn("8 8", *["I'm sorry, but no."] * 3, *[TimeoutError] * 3)
    scored, _ = judged("llava-bench", pairs, replies)
    row = table("llava-bench", pairs, scored)["llava-bench"]
    assert (row.value, row.unparsed, row.total) == (pytest.approx(100 / 3), 2, 3)
    assert unjudged(scored) == {"refused": 1, "timeout": 1}


def test_llava_bench_names_what_is_missing():
    with pytest.raises(ValueError, match="'0' has no field gpt4_ans or gpt_answer"):
        judged("llava-bench", [(item(answers=(), fields={"caption": "x"}), "a")], answer_in_turn())


def test_nothing_judged_is_nothing():
    fields = {"caption": "A cat.", "gpt4_ans": "A cat.", "category": "conv"}
    pairs = [(item(0, fields=fields), "a")]
    scored, _ = judged("llava-bench", pairs, answer_in_turn("", "", ""))
    row = table("llava-bench", pairs, scored)["llava-bench"]
    assert (row.value, row.unparsed) == (0, 1)


# MMHal-Bench


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("It is fine.\nRating: 6", 6),
        ("**Rating**: 3, not informative", 3),
        ("rating: 0", 0),
        ("Rating: 4. To repeat: Rating: 4", 4),
        ("Rating: 4 or Rating: 5", None),
        ("Rating: 7", None),
        ("Rating: 10", None),
        ("Rating: good", None),
        ("5", None),
    ],
)
def test_ratings(reply, rating):
    assert rating_of(reply) == rating


def test_mmhal_bench():
    kinds = ("attribute", "attribute", "counting", "counting")
    pairs = [
        (item(n, fields={"question_type": kind, "image_content": ["Cat", "Tree"]}), "a cat")
        for n, kind in enumerate(kinds)
    ]
    pairs = [(each, f"{said} {each.id}") for each, said in pairs]
    replies = answer_in_turn("Rating: 6", "Rating: 2", "Rating: 3", "no", "no", "no")
    scored, judge = judged("mmhal", pairs, replies)
    rows = table("mmhal", pairs, scored)
    assert {name: row.value for name, row in rows.items()} == {
        "mmhal": pytest.approx(11 / 4),
        "without hallucination": 50,
        "hallucination": 50,
        "attribute": pytest.approx(4),
        "counting": pytest.approx(1.5),
    }
    assert rows["mmhal"].unit == "points"
    assert [row.unparsed for row in rows.values()] == [1, 1, 1, 0, 1]
    assert "In the picture: Cat, Tree" in judge.asked[0]


# Video-ChatGPT


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("{'score': 4}", 4),
        ('{"score": 4.8}', 4),
        ("{''score': 4.8}", 4),
        ("{'score': '3'}", 3),
        ("```python\n{'score': 0}\n```", 0),
        ("{'score': 6}", None),
        ("{'score': -1}", None),
        ("4", None),
        ("{'score': 4, 'score': 2}", None),
        ("{'score': high}", None),
    ],
)
def test_scores_of_video_chatgpt(reply, score):
    assert score_of(reply) == score


def test_one_answer_is_judged_on_three_axes():
    def answer(prompt, temperature):
        if "Answer: late" in prompt and "how detailed" in prompt:
            return "a lot"
        return "{'score': 4}" if "facts" in prompt else "{'score': 1}"

    pairs = [(item(0), "early"), (item(1), "late")]
    scored, judge = judged("video-chatgpt-generic", pairs, answer)
    assert len(judge.asked) == 6 + 4
    assert scored[0].value == pytest.approx(2 / 5)
    assert (scored[1].value, scored[1].parsed) == (None, "4 - 1")
    rows = table("video-chatgpt-generic", pairs, scored)
    assert {name: (row.value, row.unparsed) for name, row in rows.items()} == {
        "correctness": (pytest.approx(4), 0),
        "detail": (pytest.approx(0.5), 1),
        "context": (pytest.approx(1), 0),
    }


def test_the_temporal_axis_is_alone():
    pairs = [(item(0), "first this, then that")]
    scored, judge = judged("video-chatgpt-temporal", pairs, answer_in_turn("{'score': 5}"))
    assert "the order of events" in judge.asked[0]
    assert table("video-chatgpt-temporal", pairs, scored)["temporal"].value == 5


def way(number, first, second, video="v1"):
    fields = {"question_1": first, "question_2": second, "video_name": video}
    return item(number, question=first if first != "None" else second, fields=fields)


def test_two_answers_are_judged_together():
    pairs = [
        (way(0, "What?", "None"), "one"),
        (way(1, "None", "Which?"), "two"),
        (way(2, "Who?", "None", "v2"), "three"),
        (way(3, "Where?", "None"), "four"),
        (way(4, "None", "In which place?"), "five"),
        (way(5, "None", "Which man?", "v2"), "six"),
    ]
    by_question = {"What?": 5, "Where?": 2, "Who?": 2}

    def answer(prompt, temperature):
        first = prompt.partition("asked in one way: ")[2].partition("\n")[0]
        return f"{{'score': {by_question[first]}}}"

    scored, judge = judged("video-chatgpt-consistency", pairs, answer)
    assert len(judge.asked) == 3
    assert "Answer to the first: four\nAnswer to the second: five" in "".join(judge.asked)
    assert [each.value for each in scored] == [1, 1, 0.4, 0.4, 0.4, 0.4]
    row = table("video-chatgpt-consistency", pairs, scored)["consistency"]
    assert (row.value, row.total) == (pytest.approx(3), 3)


def test_rows_of_which_nobody_says_the_way_are_paired_by_their_answer():
    def row(number, answer):
        return item(number, answers=(answer,), fields={"video_name": "v"}), str(number)

    pairs = [row(0, "red"), row(1, "blue"), row(2, "red"), row(3, "blue")]
    replies = answer_in_turn("{'score': 5}", "{'score': 0}")
    scored, judge = judged("video-chatgpt-consistency", pairs, replies)
    assert "Answer to the first: 0\nAnswer to the second: 2" in judge.asked[0]
    assert [each.value for each in scored] == [1, 0, 1, 0]


def test_a_row_without_its_other_one_has_no_grade():
    pairs = [(way(0, "What?", "None"), "one")]
    scored, judge = judged("video-chatgpt-consistency", pairs, answer_in_turn())
    assert judge.asked == []
    assert scored[0].value is None
    assert table("video-chatgpt-consistency", pairs, scored)["consistency"].unparsed == 1


def test_a_row_that_asks_in_both_ways_is_refused():
    with pytest.raises(ValueError, match="Item '0' has question_1 and question_2"):
        judged("video-chatgpt-consistency", [(way(0, "What?", "Which?"), "x")], answer_in_turn())
