"""Which option an answer picks, by the rules of each program, and accuracy in every order."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import RULES, metric
from minicpmv.evaluate.metrics.letters import infer_option
from minicpmv.evaluate.metrics.letters_lmms import most_likely_letter

UPSTREAM, FORK, LMMS = RULES
ANIMALS = {"A": "cat", "B": "dog", "C": "blue whale"}


@pytest.mark.parametrize(
    ("answer", "fork", "upstream"),
    [
        ("B", "B", "B"),
        ("(B).", "B", "B"),
        ("**B**", "B", "B"),
        ("B: it barks and it has a tail", "B", None),  # not among the last four words
        ("It barks, so the letter is B", "B", "B"),
        ("B is it, I say", "B", None),  # five words: the first is not among the last four
        ("B, I am sure", "B", "B"),
        ("A dog", "A", "A"),  # the article is an option
        ("A dog runs over green meadows", "A", "B"),  # by its text
        ("A or B", None, None),
        ("b", None, None),
        ("dog", "B", "B"),
        ("The dog", "B", "B"),
        ("dog and cat", None, None),
        ("I think the correct answer is **b** as it barks loudly at him", None, "B"),
        ("a dog " * 30, "B", None),  # text in an answer that is too long
        ("Z", "Z", "Z"),
        ("I'm sorry, but without the image provided I cannot tell", "Z", "Z"),
        ("", None, None),
        ("选项B。", None, None),  # a letter among Chinese characters is no word
        ("选 B", "B", "B"),
        ("Ｂ", None, None),
    ],
)
def test_options_are_inferred_as_vlmevalkit_does(answer, fork, upstream):
    assert infer_option(answer, ANIMALS, FORK) == fork
    assert infer_option(answer, ANIMALS, UPSTREAM) == upstream


def test_an_option_that_is_not_read_is_not_guessed():
    item = Item("1", "", answers=("B",), options=ANIMALS)
    scored = metric("mcq").score(item, "a horse", FORK)
    assert (scored.value, scored.parsed) == (None, None)
    assert metric("mcq").score(item, "Z", FORK).value == 0
    (row,) = metric("mcq").summarise([(item, scored)], FORK)
    assert (row.value, row.unparsed, row.total) == (0, 1, 1)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B. dog", "B"),
        ("The answer is (C).", "C"),
        ("(A) is wrong, so the answer is B", "B"),
        ("I choose B over A there", "A"),  # the last letter to be found first after it
        ("A dog", "A"),
        ("答案是B", "B"),
        ("DNA", "D"),  # ends in A, but in a word: any letter, then the first
        ("", None),
        ("dog", None),
    ],
)
def test_lmms_eval_ranks_forms_of_letters(answer, letter):
    found = most_likely_letter(answer, "ABCD")
    assert found == letter if answer != "DNA" else found in ("D", "A")


@pytest.mark.parametrize(
    ("name", "right", "unread", "wrong"),
    [
        ("ai2d", ["B", "b", "(B)", "B. dog", " b. "], ["The answer is B", "B) dog", ""], ["C. x"]),
        ("scienceqa", ["B", "b", "B. dog"], ["(B)", "B dog", "b. dog", ""], ["A."]),
        ("seedbench", ["B", "b", "Because", "B)"], ["(B)", "选B", ""], ["The answer is B"]),
        ("blink", ["B", "(B)", "B)", "the answer is B", "because"], ["The dog", ""], ["a dog"]),
        ("mmstar", ["B", "So (B) it is", "答案为B"], ["the dog", ""], ["A dog"]),
        ("mcq-circular", ["B", "(B).", "dog", "It is dog-like"], ["the horse", ""], ["C:"]),
    ],
)  # fmt: skip
def test_lmms_eval_reads_letters_otherwise_in_every_benchmark(name, right, unread, wrong):
    item = Item("1", "", answers=("B",), options={"A": "cat", "B": "dog", "C": "cow"})
    for answers, expected in ((right, 1), (unread, None), (wrong, 0)):
        for answer in answers:
            assert metric(name).score(item, answer, LMMS).value == expected, answer


def test_an_option_that_is_not_there_is_nan_in_lmms_eval():
    item = Item("1", "", answers=("A",), options={"A": "banana", "B": "dog"})
    assert metric("mcq-circular").score(item, "It must be one banana!", FORK).value == 1
    assert metric("mcq-circular").score(item, "It must be one banana!", LMMS).value is None


def test_realworldqa_of_lmms_eval_has_open_questions():
    item = Item("1", "", answers=("Downhill",))
    assert metric("realworldqa").score(item, "downhill.", LMMS).value == 1
    assert metric("realworldqa").score(item, "It goes downhill", LMMS).value == 0


def test_mmstar_of_lmms_eval_is_the_mean_of_its_groups():
    measure = metric("mmstar")
    said = [("p", "A"), ("p", "A"), ("p", "A"), ("q", "B")]
    items = [
        Item(str(place), "", answers=("A",), options=ANIMALS, fields={"l2-category": group})
        for place, (group, _) in enumerate(said)
    ]
    scored = [(item, measure.score(item, said[n][1], LMMS)) for n, item in enumerate(items)]
    assert measure.summarise(scored, LMMS)[0].value == pytest.approx(50)
    assert measure.summarise(scored, FORK)[0].value == pytest.approx(75)
    assert [row.name for row in measure.summarise(scored, FORK)] == ["mmstar", "p", "q"]


# In every order


def circular(answers: dict[int, str], rules: str = FORK, category: str = "x"):
    """Rows of a table; the right option is A at first, and then the letter before."""
    measure, scored = metric("mcq-circular"), []
    for index, answer in answers.items():
        turn = index // 1_000_000
        texts = ["cat", "dog"][turn:] + ["cat", "dog"][:turn]
        fields = {"category": f"{category}{index % 2}", "split": "dev"}
        options = dict(zip("AB", texts, strict=True))
        item = Item(str(index), "", answers=("AB"[turn],), options=options, fields=fields)
        scored.append((item, measure.score(item, answer, rules)))
    return measure.summarise(scored, rules)


def test_a_question_is_right_if_it_is_in_every_order():
    rows = circular({1: "A", 1_000_001: "B", 2: "A", 1_000_002: "A", 3: "horse", 1_000_003: "B"})
    headline = rows[0]
    assert (headline.name, headline.total, headline.unparsed) == ("mcq-circular", 3, 1)
    assert headline.value == pytest.approx(100 / 3)
    assert {row.name: row.value for row in rows}["x1"] == pytest.approx(50)
    assert rows[-1].name == "first order alone"
    assert rows[-1].value == pytest.approx(100 * 2 / 3)


def test_a_wrong_order_decides_whatever_the_others_say():
    headline = circular({1: "horse", 1_000_001: "A"})[0]
    assert (headline.value, headline.unparsed) == (0, 0)


def test_questions_that_were_not_asked_in_every_order_are_named():
    headline = circular({1: "A", 2: "A", 1_000_002: "B"})[0]
    assert headline.name == "mcq-circular (1 of 2 not in every order)"
    with pytest.raises(ValueError, match="No question is there in its first order"):
        circular({1_000_001: "A"})


def test_orders_are_found_by_the_number_of_an_item():
    measure = metric("mcq-circular")
    item = Item("x1", "", answers=("A",), options=ANIMALS)
    with pytest.raises(ValueError, match="'x1' has no number for an id"):
        measure.summarise([(item, measure.score(item, "A", FORK))], FORK)
