"""Errors about arguments, in the words of Python and in those of the command line."""

import re


class ArgumentError(ValueError):
    """A wrong argument. It imports nothing, so every room may raise it.

    Args:
        marked: the message, with every argument it speaks of in backticks, as Python writes it:
            "`seed` has no effect without `sampling=True`."
    """

    def __init__(self, marked: str):
        super().__init__(marked.replace("`", ""))
        self.marked = marked

    def __reduce__(self) -> tuple[type["ArgumentError"], tuple[str]]:
        return type(self), (self.marked,)

    def as_flags(self) -> str:
        """The message with flags: "--seed has no effect without --sampling."."""
        return re.sub(r"`(\w+)(?:=([^`]*))?`", _flag, self.marked).replace("`", "")


def _flag(match: re.Match[str]) -> str:
    name, value = match.groups()
    flag = name.replace("_", "-")
    if value == "False":
        return f"--no-{flag}"
    if value is None or value == "True":
        return f"--{flag}"
    return f"--{flag} {value}"
