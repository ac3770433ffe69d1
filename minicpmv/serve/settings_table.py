"""How one setting of the server is written: as a flag, in the environment, in a YAML file."""

import datetime
import decimal
import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, Literal

from ..errors import ArgumentError, short

Kind = Literal["text", "path", "whole", "number", "size", "switch", "list"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)(B?)")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
MOST = 2**63 - 1  # of whole numbers: what counts and clocks can hold
_KINDS = {
    "text": "text",
    "path": "the name of a file or folder",
    "whole": "a whole number",
    "number": "a number",
    "size": "a whole number, or one with a unit, as 64MiB or 50M",
    "switch": "true or false",
    "list": "a list of texts",
}
_WORDS = {"true": True, "yes": True, "on": True, "1": True}
_WORDS |= {"false": False, "no": False, "off": False, "0": False}


class Setting:
    """One row of the table.

    Args:
        kind: "size" is a whole number that may be written with a unit: k, M, G, T of 1000 each,
            Ki, Mi, Gi, Ti of 1024. "list" is repeated on the command line, and split at commas
            and blanks in the environment.
        help: one line for `--help`.
        least, above, most: the range of a number.
        choices: of a text.
        metavar: of the value in `--help`.
        off: a flag that says no, in place of `--name` and `--no-name`.
    """

    def __init__(
        self,
        kind: Kind,
        help: str,
        *,
        least: float | None = None,
        above: float | None = None,
        most: float | None = None,
        choices: Sequence[str] = (),
        metavar: str | None = None,
        off: str | None = None,
    ):
        self.kind = kind
        self.help = help
        self.least, self.above, self.most = least, above, most
        self.choices = tuple(choices)
        self.metavar = metavar
        self.off = off

    def read(self, value: Any, shown: str) -> Any:
        """The value of a flag, a variable or a line of the file, as its kind.

        Args:
            shown: what it is called where it was written.

        Raises:
            ArgumentError: it is of another kind, or out of range.
        """
        if self.kind == "list":
            return self._list(value, shown)
        if isinstance(value, str) and self.kind not in ("text", "path"):
            value = self._parsed(value.strip(), shown)
        if not self._is_mine(value):
            raise self._of_kind(value, shown)
        if self.kind in ("whole", "size"):
            value = int(value)
        self._check(value, shown)
        return value

    def _is_mine(self, value: Any) -> bool:
        if self.kind in ("text", "path"):
            return isinstance(value, str) and bool(value.strip())
        if self.kind == "switch":
            return isinstance(value, bool)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        # Compared, since what is longer than any float cannot be made one, nor be written.
        is_finite = -MOST <= value <= MOST if isinstance(value, int) else math.isfinite(value)
        return is_finite and (self.kind == "number" or (value == int(value) and value <= MOST))

    def _of_kind(self, value: Any, shown: str) -> ArgumentError:
        expected = _KINDS[self.kind]
        if isinstance(value, int) and not -MOST <= value <= MOST:
            return ArgumentError(
                f"{shown} is a number of {value.bit_length()} bits; expected one of at most 63."
            )
        if isinstance(value, float) and not math.isfinite(value):
            expected = "a finite number"
        parts = value if isinstance(value, list | tuple) else [value]
        is_bare = any(isinstance(part, bool | int | float | datetime.date) for part in parts)
        if is_bare and self.kind in ("text", "path", "list"):  # as YAML reads 2.6, yes or a date
            expected += ", in quotes where YAML reads something else"
        return ArgumentError(f"{shown} is {short(value)}; expected {expected}.")

    def _list(self, value: Any, shown: str) -> tuple[str, ...]:
        if isinstance(value, str):
            parts = [part for part in re.split(r"[,\s]+", value) if part]
            if value.strip() and not parts:  # commas alone: a key that is meant and not there
                raise self._of_kind(value, shown)
            value = parts
        if not isinstance(value, list | tuple) or not all(
            isinstance(part, str) and part.strip() for part in value
        ):
            raise self._of_kind(value, shown)
        return tuple(value)

    def _parsed(self, text: str, shown: str) -> Any:
        problem = self._of_kind(text, shown)
        if self.kind == "switch":
            if text.lower() not in _WORDS:
                raise problem
            return _WORDS[text.lower()]
        if self.kind == "size":
            found = _SIZE.fullmatch(text)
            if found is None or (found[3] and not found[2]):
                raise problem
            base = 1024 if found[3] else 1000
            return int(decimal.Decimal(found[1]) * base ** _POWERS[found[2]])
        try:
            return int(text) if self.kind == "whole" else float(text)
        except ValueError:
            raise problem from None

    def written(self, value: Any) -> str:
        """As a person would type it."""
        if self.kind == "size" and value % 2**20 == 0:
            return f"{value // 2**20}MiB"
        if self.kind == "size" and value % 10**6 == 0:
            return f"{value // 10**6}M"
        if self.kind == "list":
            return " ".join(value)
        return f"{value:g}" if self.kind == "number" else str(value)

    def _check(self, value: Any, shown: str) -> None:
        if self.choices and value not in self.choices:
            raise ArgumentError(
                f"{shown} is {short(value)}; expected one of {', '.join(self.choices)}."
            )
        if self.least is not None and value < self.least:
            raise ArgumentError(f"{shown} is {value}; it must be at least {self.least}.")
        if self.above is not None and value <= self.above:
            raise ArgumentError(f"{shown} is {value}; it must be above {self.above}.")
        if self.most is not None and value > self.most:
            raise ArgumentError(f"{shown} is {value}; it must be at most {self.most}.")


def setting(default: Any, kind: Kind, help: str, *, secret: bool = False, **rest: Any) -> Any:
    """A field of a dataclass that is a row of the table; a secret is not shown."""
    row = Setting(kind, help, **rest)
    return field(default=default, repr=not secret, metadata={"setting": row})


def row_of(each: "Field[Any]") -> Setting:
    row = each.metadata["setting"]
    assert isinstance(row, Setting)
    return row


def rows(table: Any) -> dict[str, Setting]:
    """The rows of a dataclass, by the names of its fields."""
    return {each.name: row_of(each) for each in fields(table)}


def default_of(table: Any, name: str) -> Any:
    value = next(each.default for each in fields(table) if each.name == name)
    assert value is not MISSING
    return value
