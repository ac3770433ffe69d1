"""Decisions by servers behind this one."""

import asyncio
import math
from typing import Any

import pytest

from minicpmv.decisions.question import Question
from minicpmv.serve.errors import ApiError
from minicpmv.serve.jobs import DecisionJob
from minicpmv.serve.upstream.decide import by_minicpmv
from minicpmv.serve.upstream.failures import UpstreamError

from ...helpers.before_vllm import run
from ...helpers.fake_vllm import IDS, NUM_INPUT, FakeVllm

ASK = [{"role": "user", "content": "Look."}]
# Texts whose tokens the fake server knows.
A, E = "A", "é"


def decide(server: FakeVllm, *questions: Question) -> Any:
    job = DecisionJob("nano", ASK, questions)
    return run([server], lambda backend: backend.decide(job))


def test_a_choice_is_by_the_probabilities_of_first_tokens() -> None:
    server = FakeVllm()
    server.logprobs = {IDS[A]: math.log(0.2), IDS[E]: math.log(0.6)}
    (found,) = decide(server, Question.of("Which?", [A, E]))
    assert found.choice == E
    assert found.probabilities == pytest.approx({A: 0.25, E: 0.75})
    assert found.mass == pytest.approx(0.8)
    assert found.confidence == pytest.approx(0.6)
    assert (found.num_input_tokens, found.is_calibrated) == (NUM_INPUT, False)
    asked = server.bodies[-1]
    assert asked["messages"] == [{"role": "user", "content": "Look.\nWhich?"}]
    assert asked["logprob_token_ids"] == sorted([IDS[A], IDS[E]])


def test_orders_are_averaged() -> None:
    server = FakeVllm()
    server.logprobs = {IDS[A]: math.log(0.5), IDS[E]: math.log(0.5)}
    question = Question.of("Which?", [A, E], list_choices=True, average_orders=True)
    (found,) = decide(server, question)
    assert found.num_orders == 2
    assert found.num_input_tokens == 2 * NUM_INPUT
    texts = [body["messages"][0]["content"] for body in server.bodies if "messages" in body]
    assert sorted(text[-3:] for text in texts) == ["A\né", "é\nA"]


def test_several_questions_keep_their_places() -> None:
    server = FakeVllm()
    server.logprobs = {IDS[A]: -0.1, IDS[E]: -3.0}
    names = [("first", [A, E]), ("second", [E, A])]
    found = decide(server, *(Question.of(text, choices) for text, choices in names))
    assert [list(each.probabilities) for each in found] == [[A, E], [E, A]]
    assert [each.choice for each in found] == [A, A]


def test_a_choice_of_several_tokens_is_refused_by_name() -> None:
    with pytest.raises(ApiError, match="The choice 'A B C' is several tokens") as caught:
        decide(FakeVllm(), Question.of("Which?", [A, "A B C"]))
    assert caught.value.status == 400


def test_choices_of_one_token_are_refused() -> None:
    # The fake server knows neither: both are its unknown token.
    with pytest.raises(ApiError, match="'x' and 'y' have the same token"):
        decide(FakeVllm(), Question.of("Which?", ["x", "y"]))


ANSWERS = {
    "predicate": {"probability": 0.9},
    "choice": {"probabilities": [{"probability": 0.3}, {"probability": 0.7}]},
    "score": {"probabilities": [{"probability": 0.3}, {"probability": 0.7}]},
}


def asked_of_minicpmv(question: Question, **rest: Any) -> tuple[Any, Any]:
    """The decision, and the question as it was sent."""
    bodies = []

    async def ask(path: str, body: dict[str, Any]) -> Any:
        assert path == "/v1/decisions"
        bodies.append(body)
        kind = body["questions"][0]["type"]
        answer = {**ANSWERS[kind], "mass": 0.5, "calibrated": True, **rest}
        usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}
        return {"answers": [answer], "usage": usage}

    (found,) = asyncio.run(by_minicpmv(DecisionJob("nano", ASK, [question]), ask))
    return found, bodies[0]


def test_a_server_of_this_package_decides_itself() -> None:
    question = Question.of("Which?", [A, E], list_choices=True, average_orders=True)
    found, body = asked_of_minicpmv(question)
    assert found.choice == E
    assert found.probabilities == {A: 0.3, E: 0.7}
    assert (found.mass, found.confidence) == (pytest.approx(0.5), pytest.approx(0.35))
    assert found.is_calibrated
    assert (found.num_input_tokens, found.num_cached_tokens, found.num_orders) == (9, 4, 2)
    assert (body["list_choices"], body["average_orders"]) == (True, True)
    choices = [{"value": A, "description": None}, {"value": E, "description": None}]
    asked = {"type": "choice", "instructions": "Which?", "choices": choices}
    assert body["questions"] == [asked]


def test_true_and_false_are_values() -> None:
    forms = {"true": ["yes", "true"], "false": ["no", "false"]}
    _, body = asked_of_minicpmv(Question.of("Is it?", forms))
    assert [each["value"] for each in body["questions"][0]["choices"]] == [True, False]
    found, body = asked_of_minicpmv(Question.of("Is it?", forms, kind="yesno"))
    assert body["questions"] == [{"type": "predicate", "instructions": "Is it?"}]
    assert found.probability == 0.9


def test_levels_are_a_score() -> None:
    found, body = asked_of_minicpmv(Question.of("How?", ["bad", "good"], kind="score"))
    assert found.score == pytest.approx(0.7)
    assert [each["label"] for each in body["questions"][0]["levels"]] == ["bad", "good"]


@pytest.mark.parametrize(
    "answer",
    [
        *({"mass": mass} for mass in (None, -0.1, 1.5, float("inf"), "x")),
        *({"probabilities": found} for found in (None, [], [{"probability": 0.5}], [{}, {}])),
        {"probabilities": [{"probability": 1e300}, {"probability": 0.1}]},
    ],
)
def test_another_answer_is_none(answer: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError, match="no chunk of an answer"):
        asked_of_minicpmv(Question.of("Which?", [A, E]), **answer)
