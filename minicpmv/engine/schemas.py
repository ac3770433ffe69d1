"""JSON schemas as values: their parts, and numbers that come to an end.

A model that is not sure writes digits for ever: 0.25252525... So a number of which the schema says
nothing gets limits that most programs have anyway.
"""

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

LARGEST = 2**53 - 1  # whole number that every reader of JSON keeps (RFC 8259, section 6)
SMALLEST = 1e-9  # step of other numbers

_OF_VALUES = ("const", "enum", "default", "examples")  # whose values are no schemas
_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

_NUMBER: Schema = {
    "type": "number",
    "minimum": -LARGEST,
    "maximum": LARGEST,
    "multipleOf": SMALLEST,
}
_ANY: Schema = {"$ref": "#/$defs/any"}
_OBJECT: Schema = {"type": "object", "additionalProperties": _ANY}
# Any JSON object.
OBJECT: Schema = {
    **_OBJECT,
    "$defs": {
        "any": {
            "anyOf": [
                _OBJECT,
                {"type": "array", "items": _ANY},
                {"type": "string"},
                _NUMBER,
                {"type": "boolean"},
                {"type": "null"},
            ]
        }
    },
}


def subschemas(schema: Any) -> Iterator[Schema]:
    """The schema and all parts of it that are schemas; what stands in the place of values is none.

    Each may be changed while it is looked at.
    """
    left: list[Any] = [schema]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            yield part
            for name, value in part.items():
                if name in _OF_NAMES and isinstance(value, dict):
                    left += value.values()
                elif name not in _OF_VALUES:
                    left.append(value)


def with_finite_numbers(schema: Schema) -> Schema:
    """A copy whose numbers have an end: between -(2**53 - 1) and 2**53 - 1 where it sets no limits,
    and with at most nine decimals where it sets no step.

    The schema itself where several parts of it may speak of one number (`allOf`).
    """
    if any("allOf" in part for part in subschemas(schema)):
        return schema
    copy: Schema = json.loads(json.dumps(schema))
    for part in subschemas(copy):
        kinds = part.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if ("integer" in kinds or "number" in kinds) and not {"enum", "const"} & part.keys():
            _limit(part, has_decimals="number" in kinds)
    return copy


def _limit(part: Schema, has_decimals: bool) -> None:
    least = _number(part, "minimum", "exclusiveMinimum")
    most = _number(part, "maximum", "exclusiveMaximum")
    if least is None and (most is None or most > -LARGEST):
        part["minimum"] = -LARGEST
    if most is None and (least is None or least < LARGEST):
        part["maximum"] = LARGEST
    # A limit between two steps may leave none.
    is_coarse = all(limit is None or limit == 0 or abs(limit) > 1e-6 for limit in (least, most))
    if has_decimals and is_coarse:
        part.setdefault("multipleOf", SMALLEST)


def _number(part: Schema, *names: str) -> float | None:
    """The limit that is set, of whatever kind it is; None where there is none."""
    found = [part[name] for name in names if name in part]
    numbers = [each for each in found if isinstance(each, int | float)]
    return numbers[0] if numbers else None
