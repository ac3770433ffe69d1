"""A run beside the card: how far, how sure, and everything that was done otherwise."""

from dataclasses import replace

import pytest

from minicpmv.evaluate.answering import Model
from minicpmv.evaluate.asking import Asking
from minicpmv.evaluate.metrics import Score
from minicpmv.evaluate.page import Page, Part, Profile, Published, load_page
from minicpmv.evaluate.report.card import compare_with_card, mean_beside_card, mean_of_pages
from minicpmv.evaluate.report.table import table, warnings_of
from minicpmv.evaluate.scoring import CARD_RULES, Scoring

PAGE = Page(
    name="reading",
    title="Reading",
    metric="exact-match",
    judge="optional",
    judge_model="gpt-3.5-turbo-0125",
    count=100,
    unit="points",
    profiles={
        "2.6": Profile(num_beams=3, repetition_penalty=1.2, upsize=True, dtype="bfloat16"),
        "2.6-cot": Profile(prompt="Think. {pictures}{question}", num_beams=3),
    },
    published={"2.6": Published(value=85.0, rows={"hard": 50.0}, sure=False, note="Of a figure.")},
)
MODEL = Model("mine", "2.6", weights="abcd", dtype="bfloat16")
ROWS = [
    Score("reading", 80.0, 72.0, 86.0, 100, 3, "points"),
    Score("hard", 40.0, 30.0, 49.0, 50, 0, "points"),
]
SCORING = Scoring("reading", CARD_RULES, ROWS, 100, 100, judge="gpt-3.5-turbo-0125")


def test_the_difference_comes_with_its_interval():
    card = compare_with_card(Asking(PAGE, "2.6"), MODEL, SCORING)
    first, second = card.deviations
    assert (first.difference, first.low, first.high, first.agrees) == (-5.0, -13.0, 1.0, True)
    assert (second.name, second.difference, second.agrees) == ("hard", -10.0, False)
    assert card.differs == [
        "enlarged pictures: a seed for each item; the cards' code had one for all"
    ]
    assert card.notes == [
        "Of a figure.",
        "the card does not state this score or its setting plainly",
    ]
    text = card.as_text(ROWS[0])
    assert "the card of 2.6 says 85, here 80; difference -5.0 (-13.0 to +1.0): agrees" in text
    assert card.as_json()["deviations"][1]["agrees"] is False


def test_everything_that_differs_is_listed():
    asking = Asking(PAGE, "2.6-cot", {"num_beams": 1, "max_new_tokens": 9})
    model = replace(MODEL, dtype="float32", quantized="nf4", ignores=("repetition_penalty",))
    scoring = replace(SCORING, rules="lmms-eval", judge="", total=40, answered=38)
    card = compare_with_card(
        asking, model, scoring, limit=40, data="mine.tsv", is_published_data=False
    )
    assert card.differs == [
        "profile: 2.6-cot, published with 2.6",
        "prompt: other words",
        "longest answer, in tokens: 9, published with 512",
        "beams: 1, published with 3",
        "repetition penalty: 1.0, published with 1.2",
        "upsize: False, published with True",
        "dtype: float32, published with bfloat16",
        "weights: quantised (nf4), published in full",
        "rules: lmms-eval, published with vlmevalkit-fork",
        "judge: none, published with gpt-3.5-turbo-0125, which has been retired",
        "items: the first 40 of 100 (--limit)",
        "items without an answer: 2, left out of the score",
        "data: mine.tsv, in place of the benchmark's own file",
    ]


def test_what_a_server_does_not_obey_is_listed():
    model = Model("m", "2.6", server="vLLM", ignores=("num_beams", "max_slice_nums"))
    differs = compare_with_card(Asking(PAGE, "2.6"), model, SCORING).differs
    assert "weights and dtype: those of vLLM, not known here" in differs
    assert "beams: 3 was not asked of vLLM" in differs
    assert "repetition penalty: vLLM counts the words of the prompt, too" in differs
    assert not any("slices" in line for line in differs)


def test_a_release_without_a_score_has_no_deviation():
    page = replace(PAGE, profiles={**PAGE.profiles, "default": Profile()})
    model = replace(MODEL, release="4.5")
    card = compare_with_card(Asking(page, "default"), model, SCORING)
    assert card.deviations == []
    assert card.as_text(ROWS[0]).startswith("reading: the card of 4.5 has no score.")
    assert card.differs[0] == "profile: default; the page has none of 4.5"


def test_the_table_gives_units_intervals_and_what_could_not_be_read():
    rows = [
        Score("accuracy", 12.345, 10.0, 15.0, 200, 7),
        Score("judge's mark", 3.456, 3.0, 4.0, 9, 0, "of 5"),
        Score("false ones", 5.0, 1.0, 9.0, 9, 0, "%", True),
    ]
    text = table([Scoring("x", CARD_RULES, rows, 200, 200), SCORING])
    assert text.splitlines()[2:] == [
        "| x | accuracy | 12.3 % | 10.0 % to 15.0 % | 200 | 7 |",
        "| x | judge's mark | 3.46 | 3.00 to 4.00 | 9 | 0 |",
        "| x | false ones (less is better) | 5.0 % | 1.0 % to 9.0 % | 9 | 0 |",
        "| reading | reading | 80 | 72 to 86 | 100 | 3 |",
        "| reading | hard | 40 | 30 to 49 | 50 | 0 |",
    ]


def test_a_score_over_fewer_items_says_so():
    scoring = replace(SCORING, total=90, answered=80, judge="")
    lines = warnings_of(scoring, count=100, limit=None, judge="optional")
    assert len(lines) == 3
    assert "10 of 90 items have no answer; the score is over 80" in lines[0]
    assert "the data has 90 items, the benchmark 100" in lines[1]
    assert "rules could not read 3 of 100 answers, which count as wrong" in lines[2]
    (line,) = warnings_of(replace(SCORING, total=5, answered=5), count=9, limit=5, judge="none")
    assert line == "reading: the score is over the first 5 of 9 items (--limit)."
    judged = replace(SCORING, judged=7, unjudged={"timeout": 2, "garbage": 1})
    (line,) = warnings_of(judged, count=100, limit=None, judge="optional")
    assert line.endswith(
        "of 7 answers shown to the judge, 3 have no verdict (1 garbage, 2 timeout)."
    )


def test_a_page_of_others_is_the_mean_of_its_parts():
    page = Page(
        name="mean",
        title="Mean",
        parts=(Part(pages=("a", "b")), Part(pages=("c",), divide=10.0)),
    )
    scorings = {
        name: Scoring(name, CARD_RULES, [Score(name, value, value - 4, value + 4, 50)], 50, 50)
        for name, value in (("a", 40.0), ("b", 60.0), ("c", 700.0))
    }
    row = mean_of_pages(page, scorings)
    assert row.value == pytest.approx((50 + 70) / 2)
    assert (row.high - row.value) == pytest.approx((1 + 1 + 0.2**2) ** 0.5)
    with pytest.raises(
        ValueError, match="mean is the mean of 2 benchmarks, and 1 of its 3 pages have no score: c"
    ):
        mean_of_pages(page, {name: scorings[name] for name in "ab"})


def test_the_card_of_2_5_gives_its_opencompass_mean():
    values = {
        "mmbench-en-v11-test": 72.0,
        "mmbench-cn-v11-test": 72.0,
        "mmstar": 51.8,
        "mmmu-val": 45.8,
        "mathvista-mini": 54.3,
        "ocrbench": 725.0,
        "ai2d": 78.4,
        "hallusionbench": 42.4,
        "mmvet": 52.8,
    }
    scorings = {
        name: Scoring(name, CARD_RULES, [Score(name, value, value, value, 9)], 9, 9)
        for name, value in values.items()
    }
    page = load_page("opencompass-8")
    row = mean_of_pages(page, scorings)
    assert row.value == pytest.approx(58.75)
    (deviation,) = mean_beside_card(page, "2.5", row).deviations
    assert deviation.difference == pytest.approx(-0.05)


def test_points_of_a_part_of_ocrbench_are_compared_as_of_all():
    rows = [Score("Final Score", 30.0, 24.0, 36.0, 50, 0, "points")]
    scoring = Scoring("ocrbench", CARD_RULES, rows, 50, 50)
    page = load_page("ocrbench")
    card = compare_with_card(Asking(page, "2.0"), Model("mine", "2.0"), scoring, limit=50)
    assert card.deviations[0].ours == pytest.approx(600)
    assert card.deviations[0].difference == pytest.approx(-5)
    assert card.deviations[0].high == pytest.approx(720 - 605)
    mean = Page(name="mean", title="Mean", parts=(Part(pages=("ocrbench",), divide=10.0),))
    assert mean_of_pages(mean, {"ocrbench": scoring}).value == pytest.approx(60)
