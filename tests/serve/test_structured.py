"""What clients ask of the form of an answer, as constraints."""

import json
import re
from random import Random

import pytest
from starlette.testclient import TestClient

from minicpmv import Constraint
from minicpmv.engine.schemas import subschemas
from minicpmv.serve.errors import ApiError
from minicpmv.serve.schema.openai import ChatRequest
from minicpmv.serve.structured import closed, constraint_of

from ..helpers.schemas import random_object
from ..helpers.serving import QUESTION, FakeBackend, fake_app

CHAT = "/v1/chat/completions"
POINT = {
    "title": "Point",
    "type": "object",
    "properties": {"x": {"type": "integer", "title": "X"}, "y": {"type": "integer"}},
    "required": ["x", "y"],
}
OF_POINT = Constraint.json_schema(closed(POINT))


def asked(**fields):
    return constraint_of(ChatRequest(**QUESTION, **fields))


def of_schema(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint.json()),
        ({"response_format": of_schema(POINT, strict=True)}, OF_POINT),
        ({"response_format": of_schema(POINT)}, OF_POINT),
        ({"structured_outputs": {"json": POINT}}, OF_POINT),
        ({"structured_outputs": {"json": json.dumps(POINT)}}, OF_POINT),
        ({"structured_outputs": {"json_object": True}}, Constraint.json()),
        ({"structured_outputs": {"regex": "a+"}}, Constraint.regex("a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Constraint.choice(["a", "b"])),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Constraint.grammar('start: "a"')),
        ({"structured_outputs": {"choice": ["a"]}, "response_format": {"type": "text"}},
         Constraint.choice(["a"])),
    ],
)  # fmt: skip
def test_what_an_answer_must_match(fields, expected):
    assert asked(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema", "is missing; send a JSON schema."),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "a", "schema": {}}}},
         "response_format.json_schema", "has no effect with the type json_object"),
        ({"response_format": of_schema({"type": "array", "uniqueItems": True})},
         "response_format.json_schema.schema",
         'cannot be kept to: Unimplemented keys: ["uniqueItems"].'),
        ({"response_format": of_schema({"type": "string", "pattern": "a(?=b)"})},
         "response_format.json_schema.schema", "look-around"),
        ({"response_format": of_schema({"description": "a" * 65536})},
         "response_format.json_schema.schema", "has 65555 bytes; at most 65536 are taken."),
        ({"structured_outputs": {}}, "structured_outputs", "asks for nothing; send one of json, "),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs", "asks for nothing"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs",
         "has regex and choice; send one of them."),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "unclosed group."),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "is ''; expected"),
        ({"structured_outputs": {"regex": "a" * 65537}}, "structured_outputs.regex", "65537 bytes"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "is []; expected"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar", "nor GBNF"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "is no JSON: Expecting"),
        ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json", "is [1]; expected an"),
        ({"structured_outputs": {"json": "[" * 60000}}, "structured_outputs.json", "too deep."),
        ({"structured_outputs": {"json": '{"enum": [NaN]}'}}, "structured_outputs.json", "JSON"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
         "structured_outputs", "and response_format both say"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_field(fields, param, message):
    with pytest.raises(ApiError) as raised:
        asked(**fields)
    error = raised.value
    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(param)
    assert message in error.message
    assert "constraint" not in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize("depth", [32, 33])
def test_a_schema_is_32_levels_deep_at_most(depth):
    schema = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    if depth == 32:
        assert asked(response_format=of_schema(schema)) is not None
        return
    with pytest.raises(ApiError, match="is nested 33 levels deep; at most 32 are taken"):
        asked(response_format=of_schema(schema))


def test_objects_have_no_further_properties():
    inner = {"type": "object", "properties": {"const": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"a": inner, "b": {"$ref": "#/$defs/c"}},
        "$defs": {"c": inner, "d": {**inner, "additionalProperties": {"type": "integer"}}},
        "default": {"properties": 1},
    }
    found = closed(schema)
    for part in (found, found["properties"]["a"], found["$defs"]["c"]):
        assert part["additionalProperties"] is False
    assert found["$defs"]["d"]["additionalProperties"] == {"type": "integer"}
    assert found["default"] == {"properties": 1}
    assert "additionalProperties" not in schema
    assert closed({"type": "object"}) == {"type": "object"}


@pytest.mark.parametrize("more", [
    {"allOf": [{"properties": {"b": {}}}]},
    {"anyOf": [{"properties": {"b": {}}}]},
    {"$ref": "#/$defs/b", "$defs": {"b": {"properties": {"b": {}}}}},
])  # fmt: skip
def test_objects_of_several_parts_stay_open(more):
    schema = {"properties": {"a": {}}, **more}
    assert closed(schema) is schema
    nested = {"items": schema}
    assert closed(nested) is nested


def test_a_closed_schema_means_less_and_nothing_else():
    for seed in range(20):
        schema, _ = random_object(Random(seed))
        assert closed(schema) == schema
        assert all(isinstance(part, dict) for part in subschemas(schema))


def test_the_engine_is_given_the_constraint():
    backend = FakeBackend(words=('{"x": 1, ', '"y": 2}'))
    with TestClient(fake_app(backend)) as client:
        body = {**QUESTION, "response_format": of_schema(POINT)}
        answer = client.post(CHAT, json=body).json()
    assert answer["choices"][0]["message"]["content"] == '{"x": 1, "y": 2}'
    assert answer["choices"][0]["finish_reason"] == "stop"
    options = backend.jobs[0].options
    assert options["constraint"] == OF_POINT
    assert options["num_beams"] == 1
    assert backend.jobs[0].prompt == QUESTION["messages"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"ignore_eos": True}, "ignore_eos"),
    ],
)
def test_what_cannot_be_combined_is_refused(fields, param):
    with TestClient(fake_app()) as client:
        body = {**QUESTION, "response_format": {"type": "json_object"}, **fields}
        response = client.post(CHAT, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert re.match(rf"{param} cannot be combined with response_format; ", error["message"])
