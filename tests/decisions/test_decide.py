"""Decisions are the probabilities of whole answers, whatever the order and the company."""

import itertools
import math
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minicpmv import Chat, Decision, Question, load
from minicpmv.evaluate.decisions import draw_examples
from minicpmv.scenes import ask, render

from ..helpers.chats import FOLDERS, loaded
from ..helpers.pictures import picture

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]


@lru_cache
def nano() -> Chat:
    return load("nano", device="cpu", dtype="float32")


@pytest.mark.parametrize("name", FOLDERS)
def test_probabilities_are_those_of_whole_answers(name: str) -> None:
    chat = loaded(name)
    images = [picture(64, 90)] if chat.supports_images else []
    choices = ["blue", "blue-green", "a b.c", "红", "12"]
    found = chat.decide("Which one?", images, choices=choices)
    assert list(found.probabilities) == choices
    assert math.fsum(found.probabilities.values()) == pytest.approx(1)
    assert 0 <= found.mass <= 1
    assert found.confidence == pytest.approx(math.exp(found.logprobs[found.choice]), rel=1e-6)
    messages = chat.processor.question(
        [{"role": "user", "content": [*images, "Which one?"] if images else "Which one?"}]
    )
    settings = chat.engine.settings([messages], {})
    for text in choices:
        said = [*messages, {"role": "assistant", "content": text}]
        answer = _ids(chat, said, add_generation_prompt=False)
        prompt = _ids(chat, messages, add_generation_prompt=True)
        assert answer[: len(prompt)] == prompt
        ids = list(itertools.takewhile(_goes_on(chat), answer[len(prompt) :]))
        ends = [[*ids, end] for end in chat.processor.terminator_ids]
        each = [math.exp(math.fsum(row)) for row in chat.engine.score(messages, settings, ends)]
        assert math.exp(found.logprobs[text]) == pytest.approx(math.fsum(each), rel=1e-3)


def _ids(chat: Chat, messages: Any, **options: Any) -> list[int]:
    inputs = chat.processor.apply_chat_template(
        [messages], tokenize=True, return_dict=True, **options
    )
    ids: list[int] = inputs["input_ids"][0].tolist()
    return ids


def _goes_on(chat: Chat) -> Any:
    return lambda token: token not in chat.processor.terminator_ids


def test_a_choice_that_begins_another_is_compared_with_its_end() -> None:
    chat = nano()
    shown = "What colour is the star?", [SCENE]
    found = chat.decide(*shown, choices=["purple", "purple star", "purple-blue"])
    assert found.choice == chat.ask(*shown) == "purple"
    messages = chat.processor.question(
        [{"role": "user", "content": [Image.open(shown[1][0]), shown[0]]}]
    )
    settings = chat.engine.settings([messages], {})
    (start,) = chat.engine.score(messages, settings, [_beginning(chat, "purple")])
    beginning = math.exp(math.fsum(start))
    wholes = [math.exp(each) for each in found.logprobs.values()]
    assert wholes[0] < beginning
    assert math.fsum(wholes) <= beginning + 1e-6


def _beginning(chat: Chat, text: str) -> list[int]:
    ids: list[int] = chat.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("orders", ["all", "cyclic"])
def test_averages_over_orders_do_not_depend_on_the_order(orders: Any) -> None:
    chat = loaded("2.6")
    choices = ["red", "blue", "green"]
    wanted: Decision | None = None
    turned = itertools.permutations(choices) if orders == "all" else _rotations(choices)
    for order in turned:
        found = chat.decide("Which?", choices=list(order), list_choices=True, average_orders=orders)
        assert found.num_orders == (6 if orders == "all" else 3)
        wanted = wanted or found
        assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-4)
    plain = [chat.decide("Which?", choices=list(o), list_choices=True) for o in _rotations(choices)]
    different = {round(each.probabilities["red"], 6) for each in plain}
    assert len(different) > 1


def _rotations(items: list[str]) -> list[list[str]]:
    return [[*items[n:], *items[:n]] for n in range(len(items))]


def test_averages_are_means_over_the_orders() -> None:
    chat = loaded("2.6")
    choices = ["red", "blue", "green"]
    each = [chat.decide("Which?", choices=o, list_choices=True) for o in _rotations(choices)]
    found = chat.decide("Which?", choices=choices, list_choices=True, average_orders="cyclic")
    for label in choices:
        mean = math.fsum(math.exp(one.logprobs[label]) for one in each) / 3
        assert math.exp(found.logprobs[label]) == pytest.approx(mean, rel=1e-3)
    assert found.num_input_tokens == sum(one.num_input_tokens for one in each)


def test_several_questions_about_one_picture() -> None:
    chat = Chat(loaded("2.6").model, loaded("2.6").processor)
    image = picture(64, 90)
    questions = [Question.of(f"Is it {colour}?", kind="yesno") for colour in COLOURS]
    before = chat.engine.stats()
    together = chat.decide_all(questions, [image])
    after = chat.engine.stats()
    assert after["steps"]["vision"] - before["steps"]["vision"] == 1
    for question, found in zip(questions, together, strict=True):
        alone = chat.decide(question.text, [image], kind="yesno")
        assert alone.probabilities == pytest.approx(found.probabilities, abs=1e-4)
        assert alone.num_input_tokens == found.num_input_tokens
        assert alone.num_cached_tokens == alone.num_input_tokens - 1
    chat.close()


def test_kinds() -> None:
    chat = loaded("2.6")
    yesno = chat.decide("Is it so?", kind="yesno")
    assert list(yesno.probabilities) == ["yes", "no"]
    assert yesno.probability == yesno.probabilities["yes"]
    own = chat.decide("Is it so?", choices=["true", "false"], kind="yesno")
    assert own.probability == own.probabilities["true"]
    levels = ["poor", "fair", "good"]
    score = chat.decide("How good is it?", choices=levels, kind="score")
    wanted = score.probabilities["fair"] + 2 * score.probabilities["good"]
    assert score.score == pytest.approx(wanted)
    assert 0 <= score.entropy <= math.log(3) + 1e-9
    with pytest.raises(ValueError, match="has no score"):
        _ = yesno.score
    with pytest.raises(ValueError, match="has `probabilities`"):
        _ = score.probability


def test_spellings_count_as_their_label() -> None:
    chat = loaded("2.6")
    apart = chat.decide("Which?", choices=["Red", "red", "blue"])
    together = chat.decide("Which?", choices={"red": ["Red", "red"], "blue": "blue"})
    wanted = apart.probabilities["Red"] + apart.probabilities["red"]
    assert together.probabilities["red"] == pytest.approx(wanted, rel=1e-4)


def test_conversations_and_system_prompts() -> None:
    chat = loaded("2.6")
    text = chat.decide("Which?", choices=["a", "b"])
    message = {"role": "user", "content": "Which?"}
    assert chat.decide([message], choices=["a", "b"]).logprobs == pytest.approx(
        text.logprobs, abs=1e-3
    )
    told = chat.decide("Which?", choices=["a", "b"], system_prompt="Say b.")
    with_system = [{"role": "system", "content": "Say b."}, message]
    same = chat.decide(with_system, choices=["a", "b"])
    assert told.logprobs == pytest.approx(same.logprobs, abs=1e-3)
    assert told.num_input_tokens == same.num_input_tokens
    listed = chat.decide([message], choices=["a", "b"], list_choices=True)
    assert listed.logprobs == pytest.approx(
        chat.decide("Which?", choices=["a", "b"], list_choices=True).logprobs, abs=1e-3
    )


def test_the_likeliest_choice_is_the_free_answer_of_nano() -> None:
    """In most cases, and where it is not, it is seldom wrong where the free answer is right."""
    chat = nano()
    cases: list[tuple[Any, str, str]] = []
    for seed in itertools.count(4_000):
        scene = render(seed, "test", kind="few")
        asked = ask(scene, "colour", random.Random(seed))
        if asked is not None and asked.answer in COLOURS:
            cases.append((scene.image, asked.text, asked.answer))
        if len(cases) == 24:
            break
    free = chat.batch([(text, [image]) for image, text, _ in cases], sampling=False, num_beams=1)
    decided = [chat.decide(text, [image], choices=COLOURS) for image, text, _ in cases]
    same = sum(each.choice == answer for each, answer in zip(decided, free, strict=True))
    assert same >= 22
    right = [each.choice == answer for each, (_, _, answer) in zip(decided, cases, strict=True)]
    free_right = [each == answer for each, (_, _, answer) in zip(free, cases, strict=True)]
    assert sum(right) >= sum(free_right)
    assert sum(right) >= 18


def test_words_that_nano_spells_are_found_in_their_letters() -> None:
    """It writes what it reads with a token a character, and what it knows with whole words."""
    chat = nano()
    examples = draw_examples(12, tasks=["word"], seed=2)
    right = free = 0
    for each in examples:
        (image,) = each.images
        found = chat.decide(each.question.text, [image], choices=each.question.labels)
        answer = chat.ask(each.question.text, [image], sampling=False, num_beams=1)
        right += found.choice == each.answer
        free += answer == each.answer
        if answer in each.question.labels:
            assert found.mass > 0.2
    assert right >= max(free, 10)
    plain = load("nano", device="cpu", dtype="float32")
    del plain.processor.tokenizer.init_kwargs["spells_print"]
    shown = examples[0].question.text, examples[0].images
    usual = plain.decide(*shown, choices=examples[0].question.labels)
    both = chat.decide(*shown, choices=examples[0].question.labels)
    for label, logprob in usual.logprobs.items():
        assert both.logprobs[label] >= logprob - 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"choices": ["a"]}, "choices has one label; expected two at least"),
        ({"choices": []}, "choices has 0 labels"),
        ({}, "choices is missing"),
        ({"choices": "ab"}, "choices is 'ab'; it must be a list of texts"),
        ({"choices": ["a", " a "]}, "'a' twice"),
        ({"choices": {"a": ["x"], "b": ["x"]}}, "has the answer 'x' twice, as 'a' and as 'b'"),
        ({"choices": ["a", " "]}, "which is blank"),
        ({"choices": ["a", 3]}, "a choice is a text"),
        ({"choices": ["a", "b " * 100]}, "tokens; at most 64 are scored"),
        ({"choices": ["a", "b", "c"], "kind": "yesno"}, "expected two, yes and no"),
        ({"choices": ["a", "b"], "kind": "maybe"}, "kind is 'maybe'; known are choice, yesno"),
        ({"choices": ["a", "b"], "average_orders": True}, "without list_choices=True"),
        (
            {"choices": list("abcde"), "list_choices": True, "average_orders": "all"},
            "would be 120 prompts; at most 24",
        ),
        (
            {"choices": list("abcdefghijklmnopqrstuvwxyz"), "list_choices": True}
            | {"average_orders": True},
            "would be 26 prompts; at most 24",
        ),
        ({"choices": ["a", "b"], "temperature": 1.0}, "temperature would have no effect"),
        ({"choices": ["a", "b"], "max_slice_nums": 2}, "max_slice_nums would have no effect"),
        ({"choices": ["a", "b"], "wrong": 2}, "Unknown option 'wrong'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded("2.6").decide("Which?", **arguments)


def test_choices_that_are_written_alike() -> None:
    """The tokenizer of 2.5 removes spaces before marks when it decodes."""
    found = loaded("2.5").decide("Which?", choices=["don't !", "no"])
    assert list(found.probabilities) == ["don't !", "no"]
