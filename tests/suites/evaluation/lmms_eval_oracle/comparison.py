"""One benchmark of lmms-eval against ours: drawn answers, every score and every summary."""

import contextlib
import importlib
import io
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minicpmv.evaluate.items import Item
from minicpmv.evaluate.metrics import Scored, metric

from .answers import draw_answer, near

with contextlib.suppress(ImportError):  # it comes with lmms-eval, and would tell every summary
    from loguru import logger

    logger.remove()
os.environ.setdefault("OPENAI_API_KEY", "none")  # MathVista's module wants one when it is loaded
RULES = "lmms-eval"
Doc = dict[str, Any]
Sides = tuple[Item, Doc]


class NotReadError(Exception):
    """lmms-eval would draw an answer at random, or ask GPT."""


def stop(*_: Any, **__: Any) -> None:
    """Stands where lmms-eval draws at random or asks GPT."""
    raise NotReadError


def one(row: tuple[Doc, str]) -> tuple[Doc, list[str]]:
    """A row as functions of lmms-eval take it."""
    return row[0], [row[1]]


def task(name: str) -> Any:
    return importlib.import_module(f"lmms_eval.tasks.{name}")


@dataclass
class Comparison:
    """One benchmark.

    Fields:
        draw: an item with lmms-eval's own row of it.
        theirs: lmms-eval's score of an answer, which comes stripped, as lmms-eval strips it.
        summary: lmms-eval's numbers of all rows, to be found in ours: name of our row -> number.
    """

    name: str
    metric: str
    draw: Callable[[random.Random], Sides]
    theirs: Callable[[Doc, str], float]
    summary: Callable[[Sequence[tuple[Doc, str]]], Mapping[str, float]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self, number: int) -> tuple[int, int, list[str]]:
        """Number compared, not read by either, and what differed."""
        rng = random.Random(self.name)
        ours = metric(self.metric, **self.options)
        faults: list[str] = []
        rows: list[tuple[Doc, str]] = []
        scored: list[tuple[Item, Scored]] = []
        unread = 0
        for _ in range(number):
            item, doc = self.draw(rng)
            extra = (*item.answers, *item.options.values(), *(near(rng, a) for a in item.answers))
            answer = draw_answer(rng, extra)
            mine = ours.score(item, answer, RULES)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    their = self.theirs(dict(doc), answer.strip())
            except NotReadError:
                their = None
            unread += their is None
            same = (
                mine.value is None
                if their is None
                else abs((mine.value or 0.0) - float(their)) < 1e-12
            )
            if not same:
                faults.append(
                    f"{answer!r} of {item.answers} {dict(item.options)} {dict(item.fields)}: "
                    f"{mine} is not {their}"
                )
            if their is not None:
                rows.append((doc, answer.strip()))
                scored.append((item, mine))
        if self.summary:
            table = {
                row.name.partition(" (")[0]: row.value for row in ours.summarise(scored, RULES)
            }
            with contextlib.redirect_stdout(io.StringIO()):
                expected = self.summary(rows)
            for name, value in expected.items():
                if name not in table or abs(table[name] - value) > 1e-6:
                    faults.append(f"{name} is {table.get(name)}, not {value}")
        return number, unread, faults
