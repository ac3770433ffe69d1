"""Claims and questions, by hand."""

import pytest

from minicpmv.train.preferences.claims import (
    Asked,
    claims_of,
    opposite_of,
    question_of,
    rewritten,
    splitter_named,
)


@pytest.mark.parametrize(
    ("answer", "claims"),
    [
        (
            'A red circle, 2 blue stars and the word "CAT".',
            ["A red circle.", "2 blue stars.", 'the word "CAT"'],
        ),
        ('The line "salt, oil and 2. 5 eggs".', ['The line "salt, oil and 2. 5 eggs"']),
        ("A brown triangle.", ["A brown triangle."]),
        (
            "The door is not open. It was green and old!",
            ["The door is not open.", "It was green and old!"],
        ),
        ("A man wears a hat and a coat.", ["A man wears a hat.", "A coat."]),
        ("A cat.\nTwo dogs, and three birds", ["A cat.", "Two dogs.", "Three birds."]),
        ("Bread and butter are on the table.", ["Bread and butter are on the table."]),
        ("", []),
        (" . ", []),
    ],
)
def test_claims(answer: str, claims: list[str]) -> None:
    assert claims_of(answer) == claims


@pytest.mark.parametrize(
    ("answer", "changes", "found"),
    [
        ("A cup, a bus and 2 cats.", {"A bus.": "A key."}, "A cup, a key and 2 cats."),
        ("A cup, a bus and 2 cats.", {"A cup.": "A key."}, "A key, a bus and 2 cats."),
        ("A cup, a cup and a bus.", {"A cup.": "An owl."}, "An owl, an owl and a bus."),
        ('A cup and the word "a bus".', {"A cup.": "A bus."}, 'A bus and the word "a bus".'),
        ("It is dark. A bus.\nIt rains!", {"It is dark.": "It was dark."}, None),
        ("有一只猫。有一只狗。", {"有一只狗": "有一只鸟"}, "有一只猫。有一只鸟。"),
        ("A cup.", {"A bus.": "A key."}, "A cup."),
    ],
)
def test_claims_are_changed_in_their_places(answer, changes, found) -> None:
    wanted = answer.replace("is dark", "was dark") if found is None else found
    assert rewritten(answer, changes) == wanted
    assert rewritten(answer, {}) == answer


@pytest.mark.parametrize(
    ("claim", "question"),
    [
        ("A red circle.", "Is there a red circle in the picture?"),
        ("2 blue stars.", "Are there 2 blue stars in the picture?"),
        ('the word "CAT"', 'Is there the word "CAT" in the picture?'),
        ("The door is not open.", "Is the door not open?"),
        ("The doors were green.", "Were the doors green?"),
        ("There is no dog.", "Is there no dog?"),
        ("The man wears a hat.", "Is it true that the man wears a hat?"),
        ('It says "what is it".', 'Is it true that it says "what is it"?'),
    ],
)
def test_questions_keep_tense_and_negation(claim: str, question: str) -> None:
    assert question_of(claim) == f"{question} Please answer yes or no."


def test_opposites() -> None:
    polar = " Please answer yes or no."
    assert opposite_of("A red circle.") == "Is there no red circle in the picture?" + polar
    assert opposite_of("2 blue stars.") == "Are there no 2 blue stars in the picture?" + polar
    assert opposite_of("The door is open.") == "Is it false that the door is open?" + polar


def test_a_function_of_the_user() -> None:
    assert splitter_named("textwrap:dedent").claims("?", "ab") == ["a", "b"]
    with pytest.raises(ValueError, match="no splitter 'textwrap:nothing'"):
        splitter_named("textwrap:nothing")


def test_a_model_that_is_asked() -> None:
    prompts = []

    def complete(prompt: str) -> str:
        prompts.append(prompt)
        return "- A cat sits.\n\nOf course!\n- It is red." if "Answer:" in prompt else "Is it?\nNo"

    splitter = Asked(complete)
    assert splitter.claims("What?", "word " * 400) == ["A cat sits.", "It is red."]
    assert prompts[0].count("word") == 300
    assert splitter.question("It is.") == "Is it? Please answer yes or no."
