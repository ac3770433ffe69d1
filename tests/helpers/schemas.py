"""Random JSON schemas and regular expressions, each with a check of its own."""

import re
from collections.abc import Callable
from random import Random
from typing import Any

Check = Callable[[Any], bool]
_WORDS = ("colour", "shape", "a b", "größe", "数量", "n", "x-1", 'say "so"')


def random_schema(rng: Random, depth: int = 3) -> tuple[dict[str, Any], Check]:
    """A schema whose answers are not long, and whether a value is of it."""
    makers = [_boolean, _integer, _number, _text, _pattern, _enum, _const, _null]
    if depth:
        makers += [_object, _object, _array, _one_of_two]
    return rng.choice(makers)(rng, depth)


def random_object(rng: Random) -> tuple[dict[str, Any], Check]:
    return _object(rng, 2)


def random_regex(rng: Random) -> str:
    """For Python's `re` and Rust's alike."""
    parts = [
        "[a-c]",
        "x?",
        "(ab|c)",
        r"\.",
        "[0-9]{1,3}",
        "(no)?",
        "é",
        "[^a-z\n]",
        "日",
        " ",
        "z*y",
    ]
    return "".join(rng.choices(parts, k=rng.randint(1, 5))) + rng.choice(["", "!", "(!|[?])"])


def _boolean(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    return {"type": "boolean"}, lambda value: isinstance(value, bool)


def _null(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    return {"type": "null"}, lambda value: value is None


def _integer(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    least = rng.randint(-300, 300)
    most = least + rng.randint(0, 500)
    schema = {"type": "integer", "minimum": least, "maximum": most, "title": "A number"}
    return schema, lambda value: type(value) is int and least <= value <= most


def _number(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    return {"type": "number"}, lambda value: type(value) in (int, float)


def _text(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    least, most = rng.randint(0, 3), rng.randint(3, 9)
    schema = {"type": "string", "minLength": least, "maxLength": most}
    return schema, lambda value: isinstance(value, str) and least <= len(value) <= most


def _pattern(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    pattern = f"^{random_regex(rng)}$"
    schema = {"type": "string", "pattern": pattern}
    return schema, lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value))


def _enum(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    values = [*rng.sample(_WORDS, 2), rng.randint(0, 9), None]
    return {"enum": values}, lambda value: value in values and type(value) is not bool


def _const(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    value = {"a": [1, rng.choice(_WORDS)]}
    return {"const": value}, lambda found: found == value


def _object(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    names = rng.sample(_WORDS, rng.randint(1, 3))
    own = {name: random_schema(rng, depth - 1) for name in names}
    needed = [name for name in names if rng.random() < 0.7]
    schema = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in own.items()},
        "required": needed,
        "additionalProperties": False,
    }

    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and set(needed) <= set(value) <= set(own)
            and all(own[name][1](part) for name, part in value.items())
        )

    return schema, check


def _array(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    item, is_item = random_schema(rng, depth - 1)
    least, most = rng.randint(0, 1), rng.randint(1, 3)
    schema = {"type": "array", "items": item, "minItems": least, "maxItems": most}

    def check(value: Any) -> bool:
        return isinstance(value, list) and least <= len(value) <= most and all(map(is_item, value))

    return schema, check


def _one_of_two(rng: Random, depth: int) -> tuple[dict[str, Any], Check]:
    (one, is_one), (two, is_two) = random_schema(rng, 0), random_schema(rng, depth - 1)
    schema = {"anyOf": [{"$ref": "#/$defs/none"}, one, two]}
    if depth == 3:  # the outermost
        schema["$defs"] = {"none": {"type": "null"}}
    else:
        schema["anyOf"][0] = {"type": "null"}
    return schema, lambda value: value is None or is_one(value) or is_two(value)
