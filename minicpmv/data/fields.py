"""Values of a row, each with the place where it stands, so that a fault can name it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..errors import short
from .faults import Fault

Row = Mapping[str, Any]

# What would change the training if it had an effect, and has none here.
_WITHOUT_EFFECT = {
    "audio": "audio input is not supported",
    "audios": "audio input is not supported",
    "system": "put it in front of the messages, with the role of the system",
    "tools": "write tool use as text",
    "functions": "write tool use as text",
    "tool_calls": "write tool use as text",
    "function_call": "write tool use as text",
    "objects": "write boxes into the text, as the model is to say them",
    "rejected_images": "both answers are about the same pictures",
    "kto_tag": "give pairs of a chosen and a rejected answer",
    "label": "give pairs of a chosen and a rejected answer",
    "detail": "limit slices by max_slice_nums of the run",
    "loss_scale": 'leave an answer out by "loss": false',
}
_REFUSED = ("audio", "audios", "tools", "functions", "objects", "rejected_images", "kto_tag")


class RowError(Exception):
    """Why a row cannot be read; `Rows` makes it a Fault.

    Args:
        field: where, "conversations[2].content".
        kind: a key of FAULT_KINDS.
        message: what was found and what was expected.
    """

    def __init__(self, field: str, kind: str, message: str):
        super().__init__(message)
        self.field, self.kind, self.message = field, kind, message

    def fault(self, row: int) -> Fault:
        """The fault of the row of this number."""
        return Fault(row, self.field, self.kind, self.message)


def is_nothing(value: Any) -> bool:
    """Whether a value says nothing: None, or empty text, list or object."""
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def text(value: Any, field: str) -> str:
    """The value, which must be text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise RowError(field, "wrong_type", f"this is {shown(value)}; expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            field,
            "wrong_type",
            f"the character {value[error.start]!a} at {error.start} is half of a pair, or of a "
            "file that is not in UTF-8; write the text as UTF-8",
        ) from None
    return value


def items(value: Any, field: str, of: str = "messages") -> list[Any]:
    """The value, which must be a list that is not empty."""
    if not isinstance(value, list | tuple):
        raise RowError(field, "wrong_type", f"this is {shown(value)}; expected a list of {of}")
    if not value:
        raise RowError(field, "wrong_type", f"the list is empty; expected {of}")
    return list(value)


def mapping(value: Any, field: str, keys: str) -> Row:
    """The value, which must be an object."""
    if not isinstance(value, Mapping):
        raise RowError(
            field, "wrong_type", f"this is {shown(value)}; expected an object with {keys}"
        )
    return value


def flag(value: Any, field: str) -> bool:
    """The value, which must be true or false, as 0 and 1 too."""
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise RowError(field, "wrong_type", f"this is {shown(value)}; expected true or false")


def whole_number(value: Any, field: str) -> int:
    """The value, which must be a whole number of at least 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RowError(
            field, "wrong_type", f"this is {shown(value)}; expected a whole number of at least 1"
        )
    return value


def name_of(row: Row) -> str | None:
    """The row's `id` as text."""
    value = row.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError("id", "wrong_type", f"this is {shown(value)}; expected text or a number")
    return text(str(value), "id")


def rest_of(row: Row, known: Iterable[str], refused: Iterable[str] = ()) -> dict[str, Any]:
    """The other columns of a row.

    Args:
        row: the row.
        known: keys that the format reads.
        refused: keys that it does not read, and that would mean something elsewhere.

    Raises:
        RowError: one of `refused`, or a key that asks for what is not done, says something. So does
            a `label` that is true or false: in rows of KTO it tells good answers from bad ones.
    """
    known = {"id", *known}
    is_kto = isinstance(row.get("label"), bool) and "conversations" not in row
    for key in (*_REFUSED, *refused, *(["label"] if is_kto else [])):
        if key in row and key not in known and not is_nothing(row[key]):
            raise RowError(key, "unknown_field", without_effect(key, known))
    return {str(key): value for key, value in row.items() if key not in known}


def check_keys(given: Row, known: Collection[str], field: str) -> None:
    """Every key of an object inside of a row has an effect, unless it says nothing."""
    for key, value in given.items():
        if key not in known and not is_nothing(value):
            raise RowError(join(field, str(key)), "unknown_field", without_effect(str(key), known))


def without_effect(key: str, known: Iterable[str]) -> str:
    """The message about a key that would have no effect."""
    advice = f"; {_WITHOUT_EFFECT[key]}" if key in _WITHOUT_EFFECT else ""
    names = ", ".join(sorted(known))
    return f"the key {key!r} would have no effect{advice}; this format reads {names}"


def join(field: str, key: str) -> str:
    """The place of a key of an object."""
    return f"{field}.{key}" if field else key


def shown(value: Any) -> str:
    """A value for a message: its type, and what it is where that is short."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", bytes: "bytes"}
    if value is None:
        return "null"
    kind = names.get(type(value), "a number" if isinstance(value, int | float) else "")
    return f"{kind or type(value).__name__} ({short(value, 30)})"
