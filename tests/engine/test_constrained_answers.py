"""Answers under a constraint, through `Chat`: valid whatever else is asked for."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from minicpmv import Answer, Chat, Constraint, load
from minicpmv.engine.hf import generate_ids
from minicpmv.engine.matching import vocabulary_of

from ..helpers.chats import loaded
from ..helpers.pictures import picture
from ..helpers.schemas import random_object, random_regex, random_schema

GREEDY = {"sampling": False, "num_beams": 1, "repetition_penalty": 1.0}
QUESTION = "Tell me a story, tell me a story."
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["star", "circle"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["colour", "kind", "count"],
    "additionalProperties": False,
}
OF_SCHEMA = Constraint.json_schema(SCHEMA)


def check(text: str) -> None:
    value = json.loads(text)
    assert list(value) == ["colour", "kind", "count"]
    assert len(value["colour"]) <= 8
    assert value["kind"] in ("star", "circle")
    assert 0 <= value["count"] <= 99


@pytest.mark.parametrize("options", [GREEDY, {"sampling": True, "seed": 5, "temperature": 1.5}])
def test_an_answer_is_of_its_schema(chat: Chat, options: dict[str, Any]) -> None:
    answer = chat.ask(QUESTION, constraint=OF_SCHEMA, max_new_tokens=70, **options)
    check(answer)
    assert answer.finish_reason == "stop"
    assert "".join(chat.stream(QUESTION, constraint=OF_SCHEMA, max_new_tokens=70, **options)) == (
        answer
    )


@pytest.mark.parametrize("text", [" two, three . \n", "▁ü日\u0301 ' s <AI>! "])
def test_not_a_character_is_changed(chat: Chat, text: str) -> None:
    """Neither stripped, nor cleaned as 2.5 does, nor cut where text models are."""
    answer = chat.ask(QUESTION, constraint=Constraint.choice([text]), max_new_tokens=60, **GREEDY)
    assert answer == text
    assert answer.finish_reason == "stop"


def test_length_cuts_an_answer_and_says_so(seeing: Chat) -> None:
    whole = seeing.ask(QUESTION, constraint=OF_SCHEMA, **GREEDY, max_new_tokens=70)
    num_tokens = whole.num_output_tokens
    for length in (1, num_tokens - 1, num_tokens):
        answer = seeing.ask(QUESTION, constraint=OF_SCHEMA, **GREEDY, max_new_tokens=length)
        assert answer.token_ids == whole.token_ids[:length]
        assert answer.finish_reason == ("stop" if length == num_tokens else "length")
        assert whole.startswith(answer.rstrip("�"))


def test_everybody_keeps_to_their_own(seeing: Chat) -> None:
    """In one batch with others, and with answers that are free."""
    constraints = [
        OF_SCHEMA,
        None,
        Constraint.choice(["yes", "no"]),
        Constraint.regex("[a-z ]{4,9}"),
        None,
        Constraint.json_schema({"type": "array", "items": {"type": "boolean"}, "maxItems": 3}),
    ] * 2
    requests = [
        {"prompt": f"{QUESTION} {place}", "constraint": constraint, "max_new_tokens": 60}
        | (GREEDY if place % 3 else {"sampling": True, "seed": place, "temperature": 1.2})
        for place, constraint in enumerate(constraints)
    ]
    alone = [seeing.ask(**request) for request in requests]
    seeing.engine.forget()
    with ThreadPoolExecutor(len(requests)) as threads:
        together = list(threads.map(lambda request: seeing.ask(**request), requests))
    assert together == alone
    check(together[0])
    assert together[2] in ("yes", "no")
    assert re.fullmatch("[a-z ]{4,9}", together[3])
    assert isinstance(json.loads(together[5]), list)


def generated(chat: Chat, options: dict[str, Any]) -> list[int]:
    messages = [{"role": "user", "content": QUESTION}]
    inputs, plan = chat.prepare([messages], **options)
    ids: list[int] = generate_ids(chat.model, inputs, plan)[0].tolist()
    return ids


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "logit_bias": {5: 3.0}},
        {"sampling": True, "seed": 3, "temperature": 1.3, "top_p": 0.9, "top_k": 20},
        {"min_new_tokens": 12},
        {"logprobs": 2},
        {"stop": "t"},
    ],
)
def test_it_is_what_generate_gives(chat: Chat, more: dict[str, Any]) -> None:
    for constraint in (OF_SCHEMA, Constraint.regex("[a-z]{2,12}")):
        options = GREEDY | {"constraint": constraint, "max_new_tokens": 70} | more
        if options["sampling"]:
            del options["num_beams"]
        answer = chat.ask(QUESTION, **options)
        assert list(answer.token_ids) == generated(chat, options)


def test_models_that_generate_computes_keep_to_it(
    seeing: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = GREEDY | {"constraint": OF_SCHEMA, "max_new_tokens": 70}
    questions = [QUESTION, "What is it?"]
    expected = seeing.batch(questions, **options)
    monkeypatch.setattr(seeing.engine, "_current", lambda *_: None)
    answers = seeing.batch(questions, **options)  # of different lengths, in one padded batch
    assert answers == expected
    assert [answer.finish_reason for answer in answers] == ["stop", "stop"]
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    free = seeing.ask(QUESTION, **GREEDY, max_new_tokens=70)
    stream = seeing.stream(QUESTION, **options)
    assert stream.read() == expected[0]
    assert free != expected[0]


def test_guesses_keep_to_it(chat: Chat) -> None:
    for constraint in (OF_SCHEMA, Constraint.regex("(tell me a story, ){3}[a-z]+")):
        options = GREEDY | {"constraint": constraint, "max_new_tokens": 60}
        guessed = chat.ask(QUESTION, **options, prompt_lookup_num_tokens=6)
        assert guessed == chat.ask(QUESTION, **options)
        assert guessed.token_ids == chat.ask(QUESTION, **options).token_ids


@pytest.mark.parametrize("release", ["2.6", "2.5", "2.0", "minicpm-1b"])
def test_what_is_fixed_is_computed_at_once(release: str) -> None:
    chat = loaded(release)
    fixed = "a text that nobody has to think about"
    options = GREEDY | {"constraint": Constraint.choice([f"1 {fixed}", f"2 {fixed}"])}
    before = chat.engine.stats()
    answer = chat.ask(QUESTION, **options, max_new_tokens=60)
    after = chat.engine.stats()
    assert answer[2:] == fixed
    num_steps = after["steps"]["decoder"] - before["steps"]["decoder"]
    assert num_steps <= 4
    assert after["tokens"]["new"] - before["tokens"]["new"] == answer.num_output_tokens > 8
    cut = chat.ask(QUESTION, **options, max_new_tokens=6)
    assert cut.token_ids == answer.token_ids[:6]
    assert cut.finish_reason == "length"


def test_the_shortest_length_keeps_an_answer_going_where_it_can(seeing: Chat) -> None:
    open_end = GREEDY | {"constraint": Constraint.regex("[a-z]+"), "max_new_tokens": 9}
    assert len(seeing.ask(QUESTION, **open_end, min_new_tokens=8).token_ids) >= 8
    choice = Constraint.choice(["yes", "no"])
    answer = seeing.ask(QUESTION, **GREEDY, constraint=choice, min_new_tokens=50)
    assert answer in ("yes", "no")
    assert answer.finish_reason == "stop"


def test_probabilities_are_those_of_the_model(seeing: Chat) -> None:
    free = seeing.ask(QUESTION, **GREEDY, max_new_tokens=1, logprobs=3)
    kept = seeing.ask(QUESTION, **GREEDY, constraint=Constraint.choice(["zz"]), logprobs=3)
    assert free.logprobs is not None
    assert kept.logprobs is not None
    for one, other in zip(kept.logprobs[0].top, free.logprobs[0].top, strict=True):
        assert (one.token_id, one.text) == (other.token_id, other.text)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
    assert "".join(token.text for token in kept.logprobs) == kept == "zz"


def test_what_contradicts_a_constraint_is_refused(seeing: Chat) -> None:
    with pytest.raises(ValueError, match="no_repeat_ngram_size could forbid what constraint"):
        seeing.ask(QUESTION, constraint=OF_SCHEMA, no_repeat_ngram_size=2)
    with pytest.raises(ValueError, match="it must be a Constraint, as Constraint"):
        seeing.ask(QUESTION, constraint={"type": "object"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot hold for answers as compat='released'"):
        vocabulary_of(Released(seeing.processor))  # type: ignore[arg-type]


class Released:
    def __init__(self, processor: Any):
        self.tokenizer, self.compat = processor.tokenizer, "released"


def test_an_answer_that_cannot_go_on_fails_alone() -> None:
    """Here its grammar names a token that stands for a picture."""
    chat = loaded("2.0")
    tag = chat.processor.tokenizer.convert_tokens_to_ids("<image>")
    dead = Constraint.grammar(f'start: "a" <[{tag}]>')
    with ThreadPoolExecutor(2) as threads:
        bad = threads.submit(chat.ask, QUESTION, constraint=dead, **GREEDY)
        good = threads.submit(chat.ask, QUESTION, constraint=OF_SCHEMA, **GREEDY)
        with pytest.raises(ValueError, match="No token of the vocabulary can follow"):
            bad.result()
        check(good.result())


def test_random_constraints_hold() -> None:
    """Whatever is drawn, it is valid unless it was cut."""
    nano = load("nano", device="cpu", dtype="float32")
    rng = Random(14)
    cases: list[tuple[Constraint, Any]] = []
    for number in range(200):
        if number % 4 == 3:
            pattern = random_regex(rng)
            cases.append((Constraint.regex(pattern), re.compile(pattern).fullmatch))
        else:
            make = random_object if number % 4 else random_schema
            schema, is_valid = make(rng)
            of_text = _of_json(is_valid)
            cases.append((Constraint.json_schema(schema), of_text))

    def ask(number: int) -> Answer:
        return nano.ask(
            "What is in the picture?",
            [picture(30, 40)] if number % 10 == 0 else [],
            constraint=cases[number][0],
            sampling=True,
            temperature=1 + number / 200,
            seed=number,
            top_p=1.0,
            top_k=0,
            max_new_tokens=120,
        )

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(ask, range(len(cases))))
    cut = [answer for answer in answers if answer.finish_reason == "length"]
    assert len(cut) < 40
    for answer, (constraint, is_valid) in zip(answers, cases, strict=True):
        if answer.finish_reason != "length":
            assert answer.finish_reason == "stop"
            assert is_valid(str(answer)), (answer, constraint)


def _of_json(is_valid: Any) -> Any:
    return lambda text: is_valid(json.loads(text))
