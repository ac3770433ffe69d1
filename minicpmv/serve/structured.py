"""`response_format` and `structured_outputs` to a constraint of the engine.

| asked for | constraint |
|---|---|
| `response_format.type` `text` | none |
| `json_object` | a JSON object |
| `json_schema` (`strict` or not) | JSON of its `schema`; `name` and `description` have no effect |
| `structured_outputs`: `json`, `regex`, `choice`, `grammar`, `json_object` | as vLLM names them |

An answer is always valid unless its `finish_reason` says that it was cut. JSON stands on one line.
An object with `properties` has no others, unless the schema says something about them
(`additionalProperties`, `patternProperties`) or several of its parts speak of one object: what
comes is valid all the same, and a model ends it. The schema is not shown to the model: the names of
properties speak, and the prompt should say what is wanted.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.constraints import Constraint
from ..engine.schemas import Schema, subschemas
from ..errors import ArgumentError
from .errors import ApiError
from .schema.completions import CompletionRequest
from .schema.openai import ChatRequest, ResponseFormat, StructuredOutputs

MAX_BYTES = 64 << 10  # of a schema, an expression, a list of choices or a grammar
MAX_DEPTH = 32  # of a schema

_COMBINING = {"allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "dependentSchemas", "if", "not"}
_OF_OBJECTS = {"properties", "patternProperties", "additionalProperties", "required"}
_OPENING = {"additionalProperties", "patternProperties", "unevaluatedProperties"}


def constraint_of(body: ChatRequest | CompletionRequest) -> Constraint | None:
    """What the answer to a request must match; None: it is free. Takes milliseconds, or more for a
    large schema: call it in a thread.

    Raises:
        ApiError: it is too large, not understood, or cannot be kept to; it names the field.
    """
    of_format = None if body.response_format is None else _of_format(body.response_format)
    given = body.structured_outputs
    of_outputs = None if given is None else _of_outputs(given)
    if of_format is not None and of_outputs is not None:
        raise _error(
            "structured_outputs", "and response_format both say what the answer is; send one"
        )
    return of_format or of_outputs


def _of_format(form: ResponseFormat) -> Constraint | None:
    param = "response_format"
    if form.type == "json_schema":
        if form.json_schema is None:
            raise _error(f"{param}.json_schema", "is missing; send {'name': ..., 'schema': {...}}")
        if form.json_schema.schema_ is None:
            raise _error(f"{param}.json_schema.schema", "is missing; send a JSON schema")
        return of_schema(form.json_schema.schema_, f"{param}.json_schema.schema")
    if form.json_schema is not None:
        raise _error(
            f"{param}.json_schema", f"has no effect with the type {form.type}; leave it out"
        )
    return Constraint.json() if form.type == "json_object" else None


def _of_outputs(outputs: StructuredOutputs) -> Constraint | None:
    param = "structured_outputs"
    names = {name: field.alias or name for name, field in type(outputs).model_fields.items()}
    values = {own: getattr(outputs, name) for name, own in names.items()}
    given = [name for name, value in values.items() if value is not None and value is not False]
    if len(given) > 1:
        raise _error(param, f"has {' and '.join(given)}; send one of them")
    if not given:
        expected = ", ".join(values)
        raise _error(param, f"asks for nothing; send one of {expected}")
    name = given[0]
    value, place = values[name], f"{param}.{name}"
    if name == "json_object":
        return Constraint.json()
    if name == "json":
        return of_schema(_parsed(value, place) if isinstance(value, str) else value, place)
    _check_size(value, place)
    make: Callable[[Any], Constraint] = getattr(Constraint, name)
    return made(lambda: make(value), place)


def of_schema(schema: Schema, param: str) -> Constraint:
    """The constraint of a client's schema.

    Args:
        param: the field that it is in.

    Raises:
        ApiError: as of `constraint_of`.
    """
    check_schema(schema, param)
    return made(lambda: Constraint.json_schema(closed(schema)), param)


def made(make: Callable[[], Constraint], param: str) -> Constraint:
    """The constraint, whose errors name the client's field."""
    try:
        return make()
    except ArgumentError as error:
        _, _, reason = str(error).partition(" of constraint ")
        raise ApiError(
            400, "invalid_value", f"{param} {reason or str(error)}", param=param
        ) from None


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """Refuse a schema beyond the limits."""
    _check_size(schema, param)
    depth = _depth(schema)
    if depth > MAX_DEPTH:
        raise _error(param, f"is nested {depth} levels deep; at most {MAX_DEPTH} are taken")


def _check_size(value: Any, param: str) -> None:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise _error(param, f"has {size} bytes; at most {MAX_BYTES} are taken")


def _depth(value: Any) -> int:
    """Levels of objects and lists."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _parsed(text: str, param: str) -> Schema:
    _check_size(text, param)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise _error(param, f"is no JSON: {reason}") from None
    if not isinstance(schema, dict):
        raise _error(param, f"is {json.dumps(schema)[:40]}; expected an object, a JSON schema")
    return schema


def closed(schema: Schema) -> Schema:
    """A copy whose objects have no properties beside those that it names; the schema itself where
    several parts of it speak of one object."""
    for part in subschemas(schema):
        if "allOf" in part or (_COMBINING & part.keys() and _OF_OBJECTS & part.keys()):
            return schema
    copy: Schema = json.loads(json.dumps(schema))
    for part in subschemas(copy):
        if "properties" in part and not _OPENING & part.keys():
            part["additionalProperties"] = False
    return copy


def _error(param: str, reason: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{param} {reason}.", param=param)
