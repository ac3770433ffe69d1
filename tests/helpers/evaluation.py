"""A small benchmark of drawn pictures, and models that answer without computing."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from minicpmv.evaluate.answering import Model, Reply
from minicpmv.evaluate.asking import Asking
from minicpmv.evaluate.items import Item

COLOURS = ("red", "green", "blue", "yellow")


def write_questions(folder: Path, number: int = 8) -> Path:
    """`number` rows about pictures of different sizes, as a file of the user's own."""
    rows = []
    for n in range(number):
        colour = COLOURS[n % len(COLOURS)]
        image = Image.new("RGB", (60 + 37 * (n % 5), 60 + 11 * (n % 3)), "white")
        ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=colour)
        image.save(folder / f"{n}.png")
        rows.append(
            {
                "id": f"q{n}",
                "question": f"What colour is circle {n}?",
                "image": f"{n}.png",
                "answer": colour,
            }
        )
    return write_rows(folder / "mine.jsonl", rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The answers of a run, without the time they took."""
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    for line in found:
        line.pop("seconds", None)
    return found


class Echo:
    """Answers with the last word of a question; it remembers what it was asked.

    Args:
        fails: ids that it fails at. dies_after: answers, after which it raises.
    """

    def __init__(
        self,
        fails: Iterable[str] = (),
        dies_after: int | None = None,
        model: Model | None = None,
        order: int = 1,
    ):
        self.model = model or Model("echo", "2.6", weights="abcd", dtype="bfloat16")
        self.fails = set(fails)
        self.dies_after = dies_after
        self.asked: list[str] = []
        self.order = order

    def answers(self, asking: Asking, items: Iterable[Item]) -> Iterator[tuple[str, Reply]]:
        for item in list(items)[:: self.order]:
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(item.id)
            if item.id in self.fails:
                yield item.id, Reply(None, "out of memory")
            else:
                yield item.id, Reply(item.question.rstrip("?").split()[-1], "", 3, 0.1)
