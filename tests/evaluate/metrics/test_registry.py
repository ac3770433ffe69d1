"""The list of metrics, those for data of one's own, and means of several benchmarks."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import METRICS, RULES, Score, Scored, metric
from minicpmv.evaluate.metrics.averages import average, missing
from minicpmv.evaluate.page import Part


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_can_be_made(name):
    assert metric(name).name == name


def test_unknown_metrics_rules_and_options_are_refused():
    with pytest.raises(ValueError, match="'bleu' is not known"):
        metric("bleu")
    with pytest.raises(ValueError, match="The metric 'anls' does not take"):
        metric("anls", threshold=0.4)
    with pytest.raises(ValueError, match="The rules 'mine' are not known"):
        metric("exact-match").score(Item("1", "", answers=("a",)), "a", "mine")
    with pytest.raises(ValueError, match="0 items"):
        metric("exact-match").summarise([], "vlmevalkit")


@pytest.mark.parametrize("rules", RULES)
def test_metrics_for_data_of_ones_own(rules):
    def value(name, answer, *answers, **options):
        return metric(name, **options).score(Item("1", "", answers=answers), answer, rules).value

    assert value("exact-match", " a  b\n", "c", "a b") == 1
    assert value("exact-match", "A b.", "a b") == 0
    assert value("exact-match", "Ａ b。", "ａ b", ignore_case=True, ignore_punctuation=True) == 1
    assert value("contains", "It says Open\nDaily.", "open daily") == 1
    assert value("contains", "open", "open daily") == 0
    assert value("token-f1", "the red ball", "a red box", "blue") == pytest.approx(0.5)
    assert value("token-f1", "红球", "红色球") == pytest.approx(0.8)
    assert value("token-f1", "", "a") == 1  # an article is no word
    assert value("character-error-rate", "kitten", "sitting", "x") == pytest.approx(3 / 7)
    assert value("yes-no", "Yes.", "yes") == 1


def test_character_error_rate_is_that_of_all_answers_together():
    measure = metric("character-error-rate")
    items = [Item("1", "", answers=("abcdefgh",)), Item("2", "", answers=("ab",))]
    scored = [(items[0], measure.score(items[0], "abcdefgh", "vlmevalkit"))]
    scored += [(items[1], measure.score(items[1], "xy", "vlmevalkit"))]
    (row,) = measure.summarise(scored, "vlmevalkit")
    assert row.value == pytest.approx(20)
    assert row.less_is_better


def test_groups_have_rows_of_their_own():
    measure = metric("exact-match", by=["split", "kind"])
    scored = [
        (Item(str(n), "", fields={"split": "val", "kind": "ab"[n % 2]}), Scored(float(n % 2)))
        for n in range(4)
    ]
    rows = measure.summarise(scored, "vlmevalkit")
    assert [(row.name, row.value, row.total) for row in rows] == [
        ("exact-match", 50, 4),
        ("a", 0, 2),
        ("b", 100, 2),
    ]


def score_of(value: float, half: float = 1.0) -> Score:
    return Score("x", value, value - half, value + half, 100, 1)


def test_a_mean_of_benchmarks_is_never_of_fewer():
    parts = (Part(pages=("en", "cn")), Part(pages=("mme",), divide=28.0))
    scores = {"en": score_of(80), "cn": score_of(70), "mme": score_of(1400, 28)}
    found = average("mean", parts, scores)
    assert found.value == pytest.approx((75 + 50) / 2)
    assert found.value - found.low == pytest.approx((2 * 0.25**2 + 0.5**2) ** 0.5)
    assert (found.total, found.unparsed) == (300, 3)
    del scores["cn"]
    assert missing(parts, scores) == ["cn"]
    with pytest.raises(ValueError, match="1 of its 3 pages have no score: cn"):
        average("mean", parts, scores)


def test_means_of_opencompass_are_those_of_the_cards():
    from minicpmv.evaluate.page import load_page

    values = {"mmbench-en-v11-test": 72.0, "mmbench-cn-v11-test": 72.0, "mmstar": 51.8,
              "mmmu-val": 45.8, "mathvista-mini": 54.3, "ocrbench": 725, "ai2d": 78.4,
              "hallusionbench": 42.4, "mmvet": 52.8}  # fmt: skip
    scores = {page: score_of(value) for page, value in values.items()}
    found = average("opencompass-8", load_page("opencompass-8").parts, scores)
    assert found.value == pytest.approx(58.75)  # the card of 2.5 says 58.8
