"""How well a model answers about rendered scenes: `minicpmv evaluate scenes`.

Twelve tasks in the forms of public benchmarks, on held-out scenes, decoded greedily; the model gets
its pictures as everyone's does. With `--blind` they are replaced by plain grey ones
and with `--swap` by those of another question: what is then still right is guessing.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minicpmv.chat import Chat
from minicpmv.evaluate.scenes.failures import ContactSheet
from minicpmv.evaluate.scenes.measures import Result
from minicpmv.evaluate.scenes.runner import (
    AnswerFile,
    ask_samples,
    fingerprint,
    with_grey_pictures,
    with_swapped_pictures,
)
from minicpmv.evaluate.scenes.samples import Sample, draw_samples
from minicpmv.evaluate.scenes.tasks import VERSION, Subtask, subtasks_of

_PICTURES: dict[str, Callable[[Sequence[Sample]], list[Sample]]] = {
    "shown": list,
    "grey": with_grey_pictures,
    "swapped": with_swapped_pictures,
}


@dataclass(frozen=True)
class Score:
    """One row of the table."""

    task: str
    part: str
    measure: str
    value: float
    total: int
    low: float
    high: float
    less_is_better: bool


def evaluate(
    chat: Chat,
    part: Subtask,
    *,
    split: str = "test",
    seed: int = 0,
    number: int = 200,
    pictures: str = "shown",
    batch_size: int = 32,
    file: AnswerFile | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Ask the first `number` items of a part, and score the answers.

    Args:
        pictures: "shown", "grey" or "swapped", see the top of the file.
        file: where answers are kept and looked up.
        on_progress: called after each batch with the number of answers so far and of all.
    """
    items = draw_samples(part.draw, split=split, seed=seed, number=number)
    return ask_samples(
        chat,
        items,
        _PICTURES[pictures](items),
        part=part.name,
        scorer=part.scorer,
        max_new_tokens=part.max_new_tokens,
        batch_size=batch_size,
        file=file or AnswerFile(None, {}),
        on_progress=on_progress,
    )


def scores(part: Subtask, results: Sequence[Result]) -> list[Score]:
    """The rows of a part."""
    return [
        Score(
            part.task,
            part.name,
            measure.name,
            **asdict(measure.compute(results)),
            less_is_better=measure.less_is_better,
        )
        for measure in part.measures
    ]


def table(rows: Sequence[Score]) -> str:
    """A Markdown table, one row per score."""
    lines = ["| task | measure | score | n | 95 % interval |", "|---|---|---|---|---|"]
    for row in rows:
        task = row.task if row.task == row.part else f"{row.task}: {row.part}"
        measure = f"{row.measure} (less is better)" if row.less_is_better else row.measure
        lines.append(
            f"| {task} | {measure} | {row.value:.1%} | {row.total} | "
            f"{row.low:.1%} to {row.high:.1%} |"
        )
    return "\n".join(lines)


def run(chat: Chat, args: argparse.Namespace) -> int:
    """Evaluate, print a table on stdout, and say on stderr where it is."""
    if not chat.supports_images:
        raise ValueError(f"{args.model!r} reads text only; the questions are about pictures.")
    pictures = "grey" if args.blind else "swapped" if args.swap else "shown"
    settings = {
        "version": VERSION,
        "weights": fingerprint(chat.model),
        "split": args.split,
        "run_seed": args.seed,
        "pictures": pictures,
    }
    sheet = ContactSheet()
    rows: list[Score] = []
    with AnswerFile(Path(args.answers) if args.answers else None, settings) as file:
        for part in subtasks_of(args.tasks):
            results = evaluate(
                chat,
                part,
                split=args.split,
                seed=args.seed,
                number=args.items,
                pictures=pictures,
                batch_size=args.batch_size,
                file=file,
                on_progress=_Progress(part.name),
            )
            rows += scores(part, results)
            if args.failures:
                sheet.add(part.name, results, _PICTURES[pictures]([each.item for each in results]))
    if args.failures:
        number = sheet.save(Path(args.failures))
        print(f"{args.failures}: {number} wrong answers", file=sys.stderr)
    if args.json:
        print(json.dumps({**settings, "scores": [asdict(row) for row in rows]}, indent=2))
    else:
        print(table(rows))
    return 0


class _Progress:
    """One line on stderr per part: rewritten in a terminal, else a new one every half minute."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin = self._told = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        live, last = sys.stderr.isatty(), done == total
        if live or last or now - self._told > 30:
            self._told = now
            line = f"{self._name}: {done}/{total} answers, {now - self._begin:.0f} s"
            print(line, end="\r" if live and not last else "\n", file=sys.stderr, flush=True)
