"""Two runs item by item."""

from dataclasses import replace

import pytest

from minicpmv.evaluate.metrics.contract import Scored
from minicpmv.evaluate.report.compare import Side, compare, comparison_table

SETTINGS = {"page": "mmbench-en-dev", "page version": 1}


def side(name, *values, settings=SETTINGS, first=0):
    ids = [str(first + number) for number in range(len(values))]
    scored = {each: Scored(value) for each, value in zip(ids, values, strict=True)}
    return Side(name, settings, {each: f"{name} {each}" for each in ids}, scored)


def test_by_hand():
    # both: 3, only A: 1, only B: 7, neither: 2
    first = side("A", 1, 1, 1, 1, *[0] * 7, 0, None)
    second = side("B", 1, 1, 1, 0, *[1] * 7, 0, 0)
    found = compare(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (3, 1, 7, 2)
    # Of 8 that differ, 1 or fewer the one way: 2 * (1 + 8) / 2**8.
    assert found.difference.p == 18 / 256
    assert found.difference.value == pytest.approx(6 / 13)
    assert found.difference.low < 6 / 13 < found.difference.high
    assert [change.id for change in found.changes] == ["3", *map(str, range(4, 11))]
    assert (found.changes[0].first_answer, found.changes[0].second_answer) == ("A 3", "B 3")


def test_parts_of_an_answer_count():
    found = compare(side("A", 0.5, 1.0), side("B", 0.7, 0.9))
    assert (found.both, found.only_first, found.neither) == (0, 1, 1)
    assert found.difference.value == pytest.approx(0.05)
    assert [change.id for change in found.changes] == ["1", "0"]


def test_errors_are_turned_round():
    found = compare(side("A", 0.0, 0.4, None), side("B", 0.2, 0.0, 0.0), less_is_better=True)
    assert (found.both, found.only_first, found.only_second, found.neither) == (0, 1, 2, 0)
    assert found.difference.value == pytest.approx((-0.2 + 0.4 + 1) / 3)


def test_only_items_that_both_have_are_compared():
    found = compare(side("A", 1, 1, 0), side("B", 0, 0, 0, first=2))
    assert found.difference.total == 1
    assert (found.missing_first, found.missing_second) == (2, 2)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"page": "mme", "page version": 1}, "with page mmbench-en-dev and B with page mme"),
        ({"page": "mmbench-en-dev", "page version": 2}, "page version 1 and B with page version 2"),
        ({**SETTINGS, "data": "b.tsv"}, "with data unknown and B with data b.tsv"),
    ],
)
def test_runs_of_other_items_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        compare(side("A", 1), side("B", 1, settings=other))


def test_other_data_under_the_same_ids_is_refused():
    one = side("A", 1, 0)
    first, second = replace(one, prompts={"0": "a", "1": "b"}), replace(one, name="B")
    with pytest.raises(
        ValueError, match="1 of 2 items of A and B are not the same, beginning with '1'"
    ):
        compare(first, replace(second, prompts={"0": "a", "1": "c"}))
    other = {**SETTINGS, "asked": {"2.6": {}}}  # in other words, so the prompts say nothing
    compare(first, replace(second, prompts={"0": "x", "1": "y"}, settings=other))


def test_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match="A and B have no items in common"):
        compare(side("A", 1), side("B", 1, first=5))


def test_the_table():
    first, second = side("run-a", *[0] * 30, 1, 1), side("run-b", *[1] * 30, 1, 0)
    found = compare(first, second)
    low, high = 100 * found.difference.low, 100 * found.difference.high
    interval = f"95 % interval {low:+.1f} to {high:+.1f}"
    assert comparison_table(found, most=4).splitlines() == [
        "A  run-a",
        "B  run-b",
        "",
        "both right         1",
        "only A right       1",
        "only B right      30",
        "neither            0",
        "",
        f"B - A  +90.6 points ({interval}), McNemar's exact p below 0.0001, 32 items",
        "",
        "31 items changed, the worst for B first:",
        "31  1 -> 0  'run-a 31' -> 'run-b 31'",
        "0  0 -> 1  'run-a 0' -> 'run-b 0'",
        "28  0 -> 1  'run-a 28' -> 'run-b 28'",
        "29  0 -> 1  'run-a 29' -> 'run-b 29'",
        "... 27 more",
    ]
