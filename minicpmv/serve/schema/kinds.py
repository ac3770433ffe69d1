"""Objects of several kinds: which one it is, and one error that names the kinds there are.

Tags stand in `<>`, as no field does, so that the place of an error can be told from them.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BeforeValidator

from ...errors import short
from .parts import shown


def kind_of(field: str = "type", default: str = "") -> Callable[[Any], str]:
    """The tag of an object; `default` is that of one without the field."""

    def tag(value: Any) -> str:
        kind = value.get(field) if isinstance(value, dict) else getattr(value, field, None)
        return f"<{default if kind is None else kind}>"

    return tag


def known_kinds(*kinds: str, default: str = "", **advice: str) -> BeforeValidator:
    """Refuses what is no object, and objects of other kinds.

    Args:
        default: the kind of an object that names none; "": it must name one.
        advice: by kinds that clients send in vain, what to do instead.
    """

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"it is {shown(value)}; expected an object with a type.")
        kind = value.get("type", default)
        if isinstance(kind, str) and kind in kinds:
            return value
        if isinstance(kind, str) and kind in advice:
            raise ValueError(f"it is of type {kind}: {advice[kind]}.")
        found = f"of type {short(kind)}" if kind else "without a type"
        raise ValueError(f"it is {found}; expected {' or '.join(kinds)}.")

    return BeforeValidator(check)
