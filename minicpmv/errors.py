"""Errors about arguments, in the words of Python and in those of the command line."""

import difflib
import re
from collections.abc import Iterable
from typing import Self

_MARKED = re.compile(r"`(\w+)(?:=([^`]*))?`")
MOST_LISTED = 8  # known words in a message about a wrong one
_MOST_NEAR = 3
AS_VIDEO = '{"type": "video", "video": ...} or videos=[...]'  # how a file is shown as a video


class MarkedError(Exception):
    """An error that speaks of arguments. It imports nothing, so every room may raise it.

    Args:
        marked: the message, with every argument it speaks of in backticks, as Python writes it:
            "`seed` would have no effect without `sampling=True`."
    """

    def __init__(self, marked: str):
        super().__init__(marked.replace("`", ""))
        self.marked = marked

    def __reduce__(self) -> tuple[type["MarkedError"], tuple[str]]:
        return type(self), (self.marked,)

    def as_flags(self) -> str:
        """The message with flags: "--seed would have no effect without --sampling."."""
        return _MARKED.sub(_flag, self.marked).replace("`", "")

    def as_settings(self) -> str:
        """In the words of a conversation: "seed would have no effect without /set sampling on."."""
        return _MARKED.sub(_setting, self.marked).replace("`", "")


class ArgumentError(MarkedError, ValueError):
    """A wrong argument; on the command line it was typed wrongly."""


class AdviceError(MarkedError, ValueError):
    """A model or a file is not as it has to be, and arguments are a way out."""


class OutputExistsError(MarkedError, FileExistsError):
    """What would be written is there already, and nobody said that it may be replaced."""

    @classmethod
    def of(cls, path: object, found: str = "is there already", more: str = "") -> Self:
        return cls(f"{str(path)!r} {found}. Replace it with `overwrite`, or name another{more}.")


class PromptTooLongError(ArgumentError):
    """The prompt, with the answer that was asked for, is longer than the model's context.

    The message has the words "prompt is too long", by which clients of servers know it.
    """


def _setting(match: re.Match[str]) -> str:
    name, value = match.groups()
    words = {"True": " on", "False": " off", None: ""}
    return name if value is None else f"/set {name}{words.get(value, f' {value}')}"


def _flag(match: re.Match[str]) -> str:
    name, value = match.groups()
    flag = name.replace("_", "-")
    if value == "False":
        return f"--no-{flag}"
    if value is None or value == "True":
        return f"--{flag}"
    return f"--{flag} {value}"


def meant(word: str, known: Iterable[str], all_of: str = "") -> str:
    """What may have been meant by an unknown word, to stand behind the sentence that says so.

    The nearest of many known words come first. Then it says `all_of`, the place that lists them, or
    lists all itself.
    """
    words = list(known)
    if len(words) <= MOST_LISTED:
        return f" Known: {', '.join(words)}."
    near = [each for each in words if len(word) > 2 and each.lower().startswith(word.lower())]
    near += difflib.get_close_matches(word, words, n=_MOST_NEAR)
    found = [*dict.fromkeys(near)][:_MOST_NEAR]
    close = f" Close: {', '.join(found)}." if found else ""
    return close + (f" All: {all_of}." if all_of else f" Known: {', '.join(words)}.")


def listed(words: Iterable[object], most: int = 12) -> str:
    """The first of some words, and how many more there are."""
    names = [str(word) for word in words]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def short(value: object, most: int = 40) -> str:
    """`repr(value)` on one line, cut to `most` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: BaseException) -> str:
    """The first line of a library's message; the name of its class where it has none."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__
