"""Answers in a demanded form by the bundled model, as openai-python asks for and reads them."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field
from starlette.testclient import TestClient

from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings

from ..helpers.schemas import random_object

MESSAGES = [{"role": "user", "content": "Which shapes do you see?"}]
USUAL = {"model": "nano", "messages": MESSAGES}
DRAWN = {**USUAL, "temperature": 1.2, "seed": 3}


class Place(BaseModel):
    """Where it is."""

    column: int = Field(ge=0, le=99)
    is_left: bool


class Shape(BaseModel):
    """A shape of a picture."""

    kind: Literal["star", "circle"]
    colour: str = Field(max_length=8)
    places: list[Place] = Field(default_factory=list, max_length=2)
    number: int | None = Field(None, ge=0, le=9)


TOOL = openai.pydantic_function_tool(Shape, name="draw", description="Draws a shape.")
NAMED = {"type": "function", "function": {"name": "draw"}}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(ServeSettings())) as client:
        yield client


@pytest.fixture(scope="module")
def api(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(
        base_url="http://testserver/v1", api_key="-", http_client=client, max_retries=0
    )


def test_a_schema_of_pydantic_is_parsed(api):
    for seed in range(3):
        answer = api.chat.completions.parse(
            **{**DRAWN, "seed": seed}, response_format=Shape, max_tokens=300
        )
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(choice.message.parsed, Shape)
    assert api.chat.completions.parse(**USUAL, response_format=Shape).choices[0].message.parsed


def test_a_stream_is_the_whole_answer(api):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": _schema()}}
    whole = api.chat.completions.create(**USUAL, response_format=form, n=2)
    texts = [choice.message.content for choice in whole.choices]
    for text in texts:
        Shape.model_validate_json(text)
    streamed = ["", ""]
    for chunk in api.chat.completions.create(**USUAL, response_format=form, n=2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_an_expression_a_choice_and_a_grammar_hold(api):
    def answer(**outputs):
        extra = {"structured_outputs": outputs}
        found = api.chat.completions.create(**DRAWN, max_tokens=60, extra_body=extra)
        assert found.choices[0].finish_reason == "stop"
        return found.choices[0].message.content

    assert re.fullmatch(r"[a-z]{2,5}: [0-9]{1,3}", answer(regex="[a-z]{2,5}: [0-9]{1,3}"))
    assert answer(choice=["yes ", " no"]) in ("yes ", " no")
    assert answer(grammar='root ::= "a" ("b" | "c")') in ("ab", "ac")
    assert json.loads(answer(json={"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3}))


def test_text_that_is_continued_keeps_to_a_form(api):
    extra = {"structured_outputs": {"choice": ["blue", "red"]}}
    found = api.completions.create(model="nano", prompt="The sky is ", extra_body=extra)
    assert found.choices[0].text in ("blue", "red")
    assert found.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", [NAMED, "required"])
def test_a_function_is_called(api, choice):
    answer = api.chat.completions.create(**USUAL, tools=[TOOL], tool_choice=choice)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "draw"
    Shape.model_validate_json(call.function.arguments)
    with api.chat.completions.stream(**USUAL, tools=[TOOL], tool_choice=choice) as stream:
        for event in stream:
            assert event.type != "content.delta"
        final = stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments
    assert isinstance(streamed.function.parsed_arguments, Shape)
    again = [
        *MESSAGES,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "It is drawn."},
    ]
    text = api.chat.completions.create(
        model="nano", messages=again, tools=[TOOL], tool_choice="none", max_tokens=9
    )
    assert text.choices[0].message.content
    assert text.choices[0].message.tool_calls is None


def test_several_functions_are_called(api):
    answer = api.chat.completions.create(
        **USUAL, tools=[TOOL], tool_choice="required", parallel_tool_calls=True, max_tokens=1000
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    if answer.choices[0].finish_reason == "tool_calls":
        for call in calls:
            Shape.model_validate_json(call.function.arguments)
    assert len({call.id for call in calls}) == len(calls)


def test_what_a_model_cannot_choose_is_refused(api):
    for choice in ("auto", openai.NOT_GIVEN):
        with pytest.raises(openai.BadRequestError) as raised:
            api.chat.completions.create(**USUAL, tools=[TOOL], tool_choice=choice)
        assert raised.value.param == "tool_choice"


def test_the_former_names_of_vllm_are_refused_with_the_new_ones(api):
    for name in ("json", "regex", "choice", "grammar"):
        with pytest.raises(openai.BadRequestError) as raised:
            api.chat.completions.create(**USUAL, extra_body={f"guided_{name}": "a"})
        assert raised.value.code == "unknown_parameter"
        assert f"Did you mean structured_outputs.{name}?" in raised.value.message


def test_many_ask_for_many_forms_at_once(api):
    cases = [random_object(Random(seed)) for seed in range(24)]

    def ask(number):
        schema, _ = cases[number]
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        options = {**USUAL, "temperature": 1.5, "seed": number, "max_tokens": 150}
        return api.chat.completions.create(**options, response_format=form).choices[0]

    with ThreadPoolExecutor(8) as threads:
        choices = list(threads.map(ask, range(len(cases))))
    assert sum(choice.finish_reason == "stop" for choice in choices) > 12
    for choice, (_, is_valid) in zip(choices, cases, strict=True):
        assert choice.finish_reason in ("stop", "length")
        assert choice.finish_reason == "length" or is_valid(json.loads(choice.message.content))


def _schema():
    return Shape.model_json_schema()
