"""What each release is asked, word for word as its evaluation code asked."""

import pytest

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.page import Profile, load_page
from minicpmv.evaluate.prompts import as_text, conversation

FIRST, SECOND, THIRD = b"first", b"second", b"third"
CHOICE = Item(
    "7",
    "What is it?",
    (FIRST, SECOND),
    ("A",),
    {"A": "a cat", "B": "a dog"},
    {"hint": "It meows."},
)
OPEN = Item("8", "What is written?", (FIRST,), ("EXIT",))
LETTER = "\nAnswer with the option's letter from the given choices directly."
ONE_WORD = "Answer the question using a single word or phrase."
PICK = (
    "Carefully read the following question and select the letter corresponding to the correct "
    "answer. Highlight the applicable choices without giving explanations.\n"
    "Please just indicate your choice."
)
CASES = {
    ("mmbench-en-dev", "1.0"): [
        FIRST,
        "Hint: It meows.\nQuestion: What is it?\nOptions:\nA. a cat\nB. a dog\n"
        "Please select the correct answer from the options above. \n",
    ],
    ("mmbench-en-dev", "2.5"): [
        PICK,
        FIRST,
        SECOND,
        "Hint: It meows.\nQuestion: What is it?\nOptions:\nA. a cat\nB. a dog\n",
    ],
    ("mmbench-en-dev", "2.6"): [
        FIRST,
        SECOND,
        "Hint: It meows.\nQuestion: What is it?\nOptions:\nA. a cat\nB. a dog\n" + LETTER,
    ],
    ("ocrbench", "1.0"): [FIRST, "What is written?"],
    ("ocrbench", "2.5"): [ONE_WORD, FIRST, "What is written?"],
    ("ocrbench", "2.6"): [ONE_WORD, FIRST, "What is written?"],
    ("mmvet", "2.5"): ["Answer this question in detail.", FIRST, "What is written?"],
    ("mmvet", "2.6"): ["Answer this question in detail.", FIRST, "What is written?"],
    ("llava-bench", "2.5"): [FIRST, "What is written?"],
    ("llava-bench", "2.6"): [FIRST, "What is written?"],
    ("hallusionbench", "2.5"): [FIRST, "What is written? Yes or No?"],
    ("hallusionbench", "2.6"): [FIRST, "What is written? Yes or No?"],
    ("mme", "2.5"): [FIRST, "What is written?"],
    ("textvqa-val", "2.0"): [
        FIRST,
        "Answer the question directly with single word.\nWhat is written?",
    ],
    ("textvqa-val", "2.5"): [
        "Answer the question directly with single word.",
        FIRST,
        "What is written?",
    ],
}


def parts(messages):
    """Texts and pictures of the last message."""
    return [block.get("text", block.get("image")) for block in messages[-1]["content"]]


@pytest.mark.parametrize(("page", "release"), CASES, ids=lambda name: name)
def test_a_release_is_asked_in_its_own_words(page, release):
    found = load_page(page)
    _, profile = found.profile_for(release, cot=False)
    expected = CASES[page, release]
    item = CHOICE if page.startswith("mmbench") else OPEN
    assert parts(conversation(item, profile)) == expected


def test_1_0_and_2_0_are_shown_the_first_picture_only():
    for release in ("1.0", "2.0"):
        profile = load_page("mmbench-en-dev").profile_for(release)[1]
        assert SECOND not in parts(conversation(CHOICE, profile))


@pytest.mark.parametrize("page", ["mmmu-val", "ocrbench", "hallusionbench"])
def test_chain_of_thought_is_asked_for_where_the_card_has_a_star(page):
    name, profile = load_page(page).profile_for("2.6")
    assert name == "2.6-cot"
    asked = as_text(conversation(CHOICE if page == "mmmu-val" else OPEN, profile))
    kind = "multichoice question" if page == "mmmu-val" else "question"
    ends = "selected option" if page == "mmmu-val" else "single number or single word or phrase"
    assert f"following {kind}" in asked
    assert "step by step" in asked
    assert f'the format of "Answer: {ends}' in asked
    assert load_page(page).profile_for("2.6", cot=False)[0] == "2.6"


def test_pictures_stand_at_their_marks():
    profile = Profile(prompt="{pictures}{question}\n{options}", interleaved=True)
    item = Item(
        "1",
        "See <image 2> and <image 1>: <image 2>?",
        (FIRST, SECOND, THIRD),
        (),
        {"A": "<image 1>"},
    )
    assert parts(conversation(item, profile)) == [
        THIRD,  # without a mark: where all would stand
        "See ",
        SECOND,
        " and ",
        FIRST,
        ": ",
        SECOND,
        "?\nOptions:\nA. ",
        FIRST,
        "\n",
    ]


def test_a_mark_of_a_picture_that_is_not_there_is_an_error():
    profile = Profile(interleaved=True)
    item = Item("9", "See <image 3>.", (FIRST,))
    with pytest.raises(ValueError, match="Item '9' speaks of <image 3> and has 1 pictures"):
        conversation(item, profile)


def test_what_an_item_says_is_not_read_as_a_template():
    item = Item("1", "{hint} {pictures} {0} %s", (FIRST,), (), {"A": "{question}"})
    profile = Profile(prompt="{question}\n{options}{pictures}")
    assert parts(conversation(item, profile)) == [
        "{hint} {pictures} {0} %s\nOptions:\nA. {question}\n",
        FIRST,
    ]


def test_other_fields_have_places_and_a_missing_one_is_named():
    profile = Profile(prompt="{pictures}{task}: {question}", system="Be brief.")
    item = Item("1", "Why?", (), (), {}, {"task": "VQA"})
    system, user = conversation(item, profile)
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == [{"type": "text", "text": "VQA: Why?"}]
    with pytest.raises(ValueError, match=r"place \{task\}, and item '2' no such field"):
        conversation(Item("2", "Why?"), profile)


def test_solved_examples_stand_before_the_question_with_their_pictures():
    profile = Profile(
        prompt="{pictures}Question: {question} Short answer:",
        shot="{pictures}Question: {question} Short answer: {answer}\n",
        shots=2,
    )
    shots = [Item("s1", "One?", (FIRST,), ("1", "one")), Item("s2", "Two?", (SECOND,), ("2",))]
    item = Item("q", "Three?", (THIRD,))
    assert parts(conversation(item, profile, shots=shots)) == [
        FIRST,
        "Question: One? Short answer: 1\n",
        SECOND,
        "Question: Two? Short answer: 2\n",
        THIRD,
        "Question: Three? Short answer:",
    ]


def test_text_shots_are_shown_without_their_pictures():
    profile = Profile(prompt="{pictures}{question}", shots=1, text_shots=True)
    shots = [Item("s1", "One?", (FIRST,), ("1",))]
    asked = parts(conversation(Item("q", "Three?", (THIRD,)), profile, shots=shots))
    assert asked == ["One? 1\n", THIRD, "Three?"]
