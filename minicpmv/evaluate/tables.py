"""Frozen dataclasses from tables of TOML or JSON, with every key and type checked."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def make(kind: type[Record], table: Mapping[str, Any], where: str) -> Record:
    """A `kind` with the fields of `table`; lists become tuples. `where` begins every error.

    Raises:
        ValueError: a key is unknown or missing, or a value is of another type.
    """
    hints, known = _described(cast(Any, kind))
    for key in table:
        if key not in known:
            raise ValueError(
                f"{where}: the key {key!r} is not known; there are {', '.join(known)}."
            )
    for name, each in known.items():
        required = each.default is MISSING and each.default_factory is MISSING
        if required and name not in table:
            raise ValueError(f"{where}: the key {name!r} is missing.")
    return kind(**{key: _as(hints[key], each, f"{where}: {key}") for key, each in table.items()})


@cache
def _described(kind: Any) -> tuple[dict[str, Any], dict[str, Field[Any]]]:
    """Types and fields of a dataclass by name."""
    return get_type_hints(kind), {each.name: each for each in fields(kind)}


def _as(hint: Any, value: Any, where: str) -> Any:
    """`value` in the type `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or (hint is float and type(value) in (int, float)):
        return value
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_as(arguments[0], each, where) for each in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _as(arguments[1], each, where) for key, each in value.items()}
    if origin in (Union, UnionType):
        for argument in arguments:
            try:
                return _as(argument, value, where)
            except ValueError:
                continue
    if isinstance(hint, type) and origin is None and type(value) is hint:
        return value
    if is_dataclass(hint) and isinstance(value, dict):
        return make(cast(type, hint), value, where)
    if is_dataclass(hint) and isinstance(value, cast(type, hint)):
        return value
    expected = getattr(hint, "__name__", "") if origin is None else str(hint).replace("typing.", "")
    raise ValueError(f"{where} is {value!r}; expected {expected}.")
