"""The replayer: for every recorded value of a case, the method that compares it."""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from .comparison import Comparison
from .recording import Case, Released, released

REPLAYS: dict[str, type["Replay"]] = {}  # kind of case -> class


def compares(pattern: str) -> Callable[[Any], Any]:
    """Mark a method of a `Replay`: it compares the values whose whole name matches.

    It is called with the recorded value and the groups of the match.
    """

    def mark(method: Any) -> Any:
        method.pattern = re.compile(pattern)
        return method

    return mark


class Replay:
    """Repeats one case. A subclass has a method per recorded value, marked with `compares`."""

    kinds: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        REPLAYS.update(dict.fromkeys(cls.kinds, cls))

    def __init__(self, case: Case):
        self.case = case
        self.check = Comparison()
        self.used: set[str] = set()

    @cached_property
    def released(self) -> Released:
        return released(self.case.checkpoint)

    def given(self, name: str, default: Any = None) -> Any:
        """An input of the case, or `default` where it has none of that name."""
        self.used.add(name)
        return self.case.given.get(name, default)

    def close(self, name: str, found: Any, recorded: Any) -> None:
        """Numbers within the tolerance of the case."""
        self.check.numbers(name, found, recorded, self.case.tolerance, self.case.relative)

    def run(self) -> Comparison:
        """Compare every recorded value; those that nothing compares are failures."""
        if not self.case.expected:
            self.check.holds("case", False, "no value was recorded, so nothing is proven")
        for name, recorded in self.case.expected.items():
            self._compare(name, recorded)
        for name in sorted(set(self.case.given) - self.used):
            self.check.holds(name, False, "the replay does not use this input")
        return self.check

    def _compare(self, name: str, recorded: Any) -> None:
        found = [
            (method, match)
            for method in vars_of(type(self))
            if (match := method.pattern.fullmatch(name))
        ]
        if len(found) != 1:
            message = "nothing compares it" if not found else "two methods compare it"
            self.check.holds(name, False, message)
            return
        ((method, match),) = found
        before = self.check.compared.total()
        try:
            method(self, name, recorded, *match.groups())
        except Exception as error:
            error.add_note(f"while {self.case.id} compared {name}")
            raise
        if self.check.compared.total() == before:
            self.check.holds(name, False, "its comparison compared nothing")


def vars_of(cls: type) -> list[Any]:
    """The marked methods of a class and its bases."""
    members = (getattr(cls, name) for name in dir(cls))
    return [member for member in members if hasattr(member, "pattern")]
