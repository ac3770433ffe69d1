"""VQA accuracy, ANLS, relaxed accuracy and OCRBench on answers whose score is known by hand."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import RULES, metric
from minicpmv.evaluate.metrics.vqa_text import CONTRACTIONS, evalai_answer, vqa_answer

UPSTREAM, FORK, LMMS = RULES


def value(name: str, answer: str, references, rules: str = UPSTREAM, fields=(), **options):
    item = Item("1", "What?", answers=tuple(references), fields=dict(fields))
    return metric(name, **options).score(item, answer, rules).value


# VQA accuracy


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    ("same", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_accuracy_leaves_out_each_person_in_turn(rules, same, score):
    people = ["dog"] * same + ["cat"] * (10 - same)
    assert value("vqa", "a Dog.", people, rules) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The  two\ndogs", "2 dogs"),
        ("none", "0"),
        ("Ten", "10"),
        ("a cat/dog", "cat dog"),  # no mark stands beside a space: it becomes one
        ("a cat / dog", "cat dog"),
        ("red-blue", "red blue"),
        ("red -blue", "red blue"),
        ("1,000 cats-dogs", "1000 catsdogs"),  # a comma between digits takes all marks out
        ("3.5", "3.5"),
        ("3.", "3"),
        ("e.g. this", "eg this"),
        ("no.5 .5", "no.5 .5"),  # a period before a digit stays, whatever is before it
        ("." * 40, "." * 8),  # at most 32 periods go
        ("dont", "don't"),
        ("she'dve", "she'd've"),
        ("somebody'd", "somebodyd"),
        ("its john's", "its john's"),
        ("你好，世界", "你好，世界"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_in_vqa_faults_included(answer, plain):
    assert vqa_answer(answer) == plain


def test_contractions_are_those_that_lack_an_apostrophe():
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert CONTRACTIONS["ow's'at"] == CONTRACTIONS["'ows'at"] == "'ow's'at"
    assert "lets" not in CONTRACTIONS
    assert "shes" not in CONTRACTIONS
    assert len(CONTRACTIONS) == 114


def test_evalai_takes_out_commas_and_splits_possessives():
    assert evalai_answer("St. John's, 1,000?") == "st john 's 1000"
    assert value("vqa", "john's", ["john 's"] * 10, LMMS) == 1
    assert value("vqa", "john's", ["john 's"] * 10, UPSTREAM) == 0
    assert value("vqa", "1,000 cats-dogs", ["1000 cats dogs"] * 10, LMMS) == 1
    assert value("vqav2", "1,000 cats-dogs", ["1000 catsdogs"] * 10, LMMS) == 1


def test_runner_of_the_cards_does_not_strip_references():
    people = ["cat/dog "] * 10  # the mark does not stand beside the space
    assert value("vqa", "cat/dog", people, FORK) == 1
    people = ["cat,dog, "] * 10  # here the comma does, so that commas are taken out
    assert value("vqa", "cat,dog", people, FORK) == 0
    assert value("vqa", "cat,dog", [each.strip(", ") for each in people], FORK) == 1


def test_vizwiz_of_vlmevalkit_is_the_share_of_people():
    people = ["unanswerable"] * 3 + ["cat"] * 7
    assert value("vizwiz", "Unanswerable", people, UPSTREAM) == pytest.approx(0.3)
    assert value("vizwiz", "Unanswerable", people, LMMS) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="`dataset` is 'gqa'"):
        metric("vqa", dataset="gqa")


# ANLS


@pytest.mark.parametrize("rules", RULES)
def test_anls_is_that_of_the_nearest_reference_and_0_below_a_half(rules):
    assert value("anls", "Hello  World", ["hello world"], FORK) == 1
    assert value("anls", "$3.5", ["$3.50"], rules) == pytest.approx(0.8)
    assert value("anls", "Anne", ["Maria", "Anna"], rules) == pytest.approx(0.75)
    assert value("anls", "ab", ["cb"], rules) == 0.5  # exactly a half counts
    assert value("anls", "abc", ["xyc"], rules) == 0
    assert value("anls", "", ["abc"], rules) == 0
    assert value("anls", "你好世界", ["你好世纪"], rules) == pytest.approx(0.75)


def test_anls_over_raw_lengths_is_higher():
    assert value("anls", "abcx  ", ["abcd"], FORK) == pytest.approx(0.75)
    assert value("anls", "abcx  ", ["abcd"], UPSTREAM) == pytest.approx(1 - 1 / 6)
    assert value("anls", "abcx  ", ["abcd"], LMMS) == pytest.approx(
        0.75
    )  # its answers are stripped
    assert value("anls", "abcx", ["abcd    "], LMMS) == pytest.approx(1 - 1 / 8)


# Relaxed accuracy


@pytest.mark.parametrize(
    ("answer", "true", "right"),
    [("95", "100", 1), ("94.9", "100", 0), ("10%", "0.1", 1), ("0.01", "0", 0), ("0", "0", 1),
     ("May", "may", 1), ("1,000", "1000", 0), ("-2.09", "-2", 1), ("", "3", 0), ("nan", "3", 0)],
)  # fmt: skip
def test_relaxed_accuracy_allows_a_twentieth(answer, true, right):
    assert value("relaxed-accuracy", answer, [true], UPSTREAM) == right
    assert value("relaxed-accuracy", answer, [true], LMMS) == right


def test_relaxed_accuracy_of_the_fork_is_a_twentieth_of_the_answer():
    assert value("relaxed-accuracy", "105.2", ["100"], UPSTREAM) == 0
    assert value("relaxed-accuracy", "105.2", ["100"], FORK) == 1
    assert value("relaxed-accuracy", "95", ["100"], FORK) == 0


# OCRBench

FORMULA = {"category": "Handwritten Mathematical Expression Recognition"}


@pytest.mark.parametrize("rules", RULES)
def test_ocrbench_looks_for_the_reference_in_the_answer(rules):
    assert value("ocrbench", "The sign says OPEN\nDAILY today.", ["Open daily"], rules) == 1
    assert value("ocrbench", "open", ["open daily", "OPEN"], rules) == 1
    assert value("ocrbench", "ope n", ["open"], rules) == 0
    assert value("ocrbench", "", ["open"], rules) == 0
    assert value("ocrbench", "\\frac {1}{2}", ["\\frac{1} {2}"], rules, FORMULA) == 1
    assert value("ocrbench", "\\FRAC{1}{2}", ["\\frac{1}{2}"], rules, FORMULA) == 0


def test_only_lmms_eval_takes_full_width_letters_for_ordinary_ones():
    assert value("ocrbench", "ＯＰＥＮ　ｄａｉｌｙ", ["open daily"], LMMS) == 1
    assert value("ocrbench", "ＯＰＥＮ　ｄａｉｌｙ", ["open daily"], UPSTREAM) == 0
    hme = {"question_type": "x", "dataset": "HME100k"}
    assert value("ocrbench", "a b", ["ab"], LMMS, hme) == 1
    assert value("ocrbench", "a b", ["ab"], UPSTREAM, hme) == 0


def test_ocrbench_counts_points_by_type_and_group():
    measure = metric("ocrbench")
    types = [
        "Regular Text Recognition",
        "Digit String Recognition",
        "Doc-oriented VQA",
        "Doc-oriented VQA",
    ]
    items = [
        Item(str(n), "", answers=("x",), fields={"category": kind}) for n, kind in enumerate(types)
    ]
    scored = [
        (item, measure.score(item, "xyz" if n else "y", FORK)) for n, item in enumerate(items)
    ]
    table = {row.name: row for row in measure.summarise(scored, FORK)}
    headline = next(iter(table.values()))
    assert (headline.value, headline.unit, headline.total) == (3, "points", 4)
    assert 0 < headline.low < 3 < headline.high < 4
    assert table["Text Recognition"].value == 1
    assert table["Doc-oriented VQA"].value == 2
    assert table["Final Score Norm"].value == 75
