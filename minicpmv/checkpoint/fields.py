"""Validation rules for the values in a JSON file of a checkpoint, with one-line errors.

A table maps names of fields to rules. A field that a table does not know is left to whoever reads
it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import short

_LARGEST = 2**40  # no count in a model comes near it


@dataclass(frozen=True)
class Rule:
    """What a value must be: a test, and the words for it ("a whole number of at least 1")."""

    accepts: Callable[[Any], bool]
    expected: str

    def or_null(self) -> "Rule":
        return Rule(lambda value: value is None or self.accepts(value), f"{self.expected}, or null")


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """A finite number; True and False are none."""
    is_real = is_whole(value) or isinstance(value, float)
    return is_real and abs(value) <= _LARGEST**8 and math.isfinite(value)


def count(least: int = 1, most: int = _LARGEST) -> Rule:
    words = f"a whole number of at least {least}"
    if most != _LARGEST:
        words = f"a whole number from {least} to {most}"
    return Rule(lambda value: is_whole(value) and least <= value <= most, words)


def number(
    *, above: float | None = None, least: float | None = None, most: float | None = None
) -> Rule:
    def accepts(value: Any) -> bool:
        return (
            is_number(value)
            and (above is None or value > above)
            and (least is None or value >= least)
            and (most is None or value <= most)
        )

    limits = [("above", above), ("of at least", least), ("of at most", most)]
    words = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    return Rule(accepts, f"a finite number {words}".rstrip())


FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str), "a text")
NAME = Rule(lambda value: isinstance(value, str) and bool(value), "a text that is not empty")
OBJECT = Rule(lambda value: isinstance(value, dict), "a JSON object")
TEXTS = Rule(
    lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "a list of texts",
)
TOKEN_ID = count(0)
TOKEN_IDS = Rule(
    lambda value: (
        TOKEN_ID.accepts(value)
        or (isinstance(value, list) and bool(value) and all(map(TOKEN_ID.accepts, value)))
    ),
    "a token id of at least 0, or a list of them",
)


def one_of(*names: Any) -> Rule:
    return Rule(lambda value: any(value is name or value == name for name in names), _listed(names))


def _listed(names: Iterable[Any]) -> str:
    texts = ["null" if name is None else repr(name) for name in names]
    return f"{', '.join(texts[:-1])} or {texts[-1]}" if len(texts) > 1 else texts[0]


def check_fields(
    file: str, fields: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str = ""
) -> None:
    """Check every field that has a rule.

    Args:
        file: how the message names the file.
        prefix: of the names in the message, such as "vision_config.".

    Raises:
        ValueError: names file, field, value and what was expected.
    """
    for name, rule in rules.items():
        if name in fields and not rule.accepts(fields[name]):
            raise damaged(file, prefix + name, fields[name], rule.expected)


def check_present(file: str, fields: Mapping[str, Any], names: Iterable[str], reason: str) -> None:
    """Check that required fields are there.

    Args:
        reason: why they are required.

    Raises:
        ValueError: names file and fields.
    """
    missing = [name for name in names if name not in fields]
    if missing:
        raise ValueError(
            f"{file} has no {', '.join(missing)}; {reason}. Take the release's own file, or add "
            "what is missing."
        )


def damaged(file: str, field: str, value: Any, expected: str) -> ValueError:
    """The error for an invalid value, one line."""
    found = "null" if value is None else short(value, 80)
    return ValueError(
        f"{file} says {field} {found}; expected {expected}. Download the file again, or correct it."
    )
