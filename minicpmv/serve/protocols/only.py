"""Fields of which only some values ask for nothing that is not done anyway."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from ...errors import short
from ..errors import ApiError

Ignored = Callable[[str], None]
Only = Mapping[str, tuple[tuple[Any, ...], str]]


def check_only(body: BaseModel, only: Only, ignored: Ignored | None) -> None:
    """
    Args:
        only: by field, as `reasoning.effort`: the values that are taken, and why no other is.
        ignored: called with the name of each field that would have no effect; None: it is an
            error.

    Raises:
        ApiError: the first such field.
    """
    for field, (values, reason) in only.items():
        value: Any = body
        for name in field.split("."):
            value = getattr(value, name, None)
        if value is None or any(value == each and type(value) is type(each) for each in values):
            continue
        if ignored is None:
            message = f"{field} is {short(value)}, which has no effect: {reason}."
            raise ApiError(400, "invalid_value", message, param=field)
        ignored(field.removeprefix("options.").partition(".")[0])
