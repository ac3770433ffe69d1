"""Parts of JSON schemas, and numbers that come to an end."""

import json

import pytest

from minicpmv import Constraint, load
from minicpmv.engine.schemas import LARGEST, SMALLEST, subschemas, with_finite_numbers

LIMITS = {"minimum": -LARGEST, "maximum": LARGEST}
STEP = {"multipleOf": SMALLEST}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, LIMITS),
        ({"type": "number"}, LIMITS | STEP),
        ({"type": ["number", "null"]}, LIMITS | STEP),
        ({"type": "integer", "minimum": 3}, {"maximum": LARGEST}),
        ({"type": "integer", "exclusiveMaximum": 3}, {"minimum": -LARGEST}),
        ({"type": "integer", "minimum": 2**60}, {}),
        ({"type": "integer", "maximum": -(2**60)}, {}),
        ({"type": "number", "minimum": 0, "maximum": 1}, STEP),
        ({"type": "number", "minimum": 0, "maximum": 1e-9}, {}),
        ({"type": "number", "multipleOf": 0.5}, LIMITS),
        ({"type": "integer", "enum": [1]}, {}),
        ({"type": "string"}, {}),
        ({}, {}),
        ({"type": [], "minimum": "a"}, {}),
    ],
)
def test_numbers_without_limits_get_some(schema, expected):
    before = json.dumps(schema)
    assert with_finite_numbers(schema) == schema | expected
    nested = {"properties": {"a": {"items": schema}}}
    assert with_finite_numbers(nested)["properties"]["a"]["items"] == schema | expected
    assert json.dumps(schema) == before


def test_schemas_with_limits_are_understood():
    for schema in ({"type": "integer"}, {"type": ["number", "null"]}, {"type": "number"}):
        for more in ({}, {"minimum": 3}, {"exclusiveMaximum": 3}, {"multipleOf": 0.5}):
            Constraint.json_schema(schema | more)


def test_numbers_of_several_parts_stay_as_they_are():
    schema = {"allOf": [{"type": "integer"}, {"minimum": 2}]}
    assert with_finite_numbers(schema) is schema


def test_values_are_no_schemas():
    schema = {
        "properties": {"const": {"type": "string"}, "properties": {"items": {}}},
        "const": {"type": "integer"},
        "examples": [{"type": "integer"}],
    }
    found = list(subschemas(schema))
    assert len(found) == 4
    assert {"type": "integer"} not in found


@pytest.mark.parametrize("image", [[], ["examples/scene.png"]])
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_a_model_that_writes_digits_comes_to_an_end(kind, image):
    constraint = Constraint.json_schema({"type": "array", "items": {"type": kind}, "maxItems": 3})
    answer = load("nano").ask(
        "How many shapes are there?", image, constraint=constraint, max_new_tokens=120, num_beams=1
    )
    assert answer.finish_reason == "stop"
    assert all(abs(value) <= LARGEST for value in json.loads(answer))


def test_a_number_is_what_a_reader_keeps():
    schema = {"type": "number", "minimum": 0.1, "maximum": 0.3}
    answer = load("nano").ask("What?", constraint=Constraint.json_schema(schema), sampling=True)
    assert 0.1 <= json.loads(answer) <= 0.3
