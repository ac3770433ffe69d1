"""How well a model answers about rendered scenes: `minicpmv evaluate scenes`.

Twelve tasks in the forms of public benchmarks, on held-out scenes, decoded greedily; the model gets
its pictures on the road that everyone's take. With `--blind` they are replaced by plain grey ones
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
from minicpmv.evaluate.failures import ContactSheet
from minicpmv.evaluate.measures import Result
from minicpmv.evaluate.runner import (
    AnswerFile,
    ask_items,
    fingerprint,
    with_grey_pictures,
    with_swapped_pictures,
)
from minicpmv.evaluate.samples import Item, draw_items
from minicpmv.evaluate.tasks import PARTS, TASKS, VERSION, Part, parts_of
from minicpmv.loader import load

_PICTURES: dict[str, Callable[[Sequence[Item]], list[Item]]] = {
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
    part: Part,
    *,
    split: str = "test",
    seed: int = 0,
    number: int = 200,
    pictures: str = "shown",
    batch_size: int = 8,
    file: AnswerFile | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Ask the first `number` items of a part, and judge the answers.

    Args:
        pictures: "shown", "grey" or "swapped", see the top of the file.
        file: where answers are kept and looked up.
        tell: called after each batch with the number of answers so far and of all.
    """
    items = draw_items(part.draw, split=split, seed=seed, number=number)
    return ask_items(
        chat,
        items,
        _PICTURES[pictures](items),
        part=part.name,
        judge=part.judge,
        max_new_tokens=part.max_new_tokens,
        batch_size=batch_size,
        file=file or AnswerFile(None, {}),
        tell=tell,
    )


def scores(part: Part, results: Sequence[Result]) -> list[Score]:
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `minicpmv evaluate scenes` can be told."""
    parser.add_argument("-m", "--model", default="nano", help="folder, name on the hub, or nano")
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (the default)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto")
    parser.add_argument(
        "--quantize", choices=["int4", "int8"], help="keep the decoder layers in 4 or 8 bits"
    )
    parser.add_argument("--split", default="test", choices=("train", "test"), help="default: test")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="other scenes (default: 0)"
    )
    parser.add_argument(
        "--items", type=int, default=200, metavar="N", help="items of each part (default: 200)"
    )
    # The option's name when every task had one part.
    parser.add_argument(
        "--scenes", dest="items", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    names = [
        task
        if [part.name for part in parts] == [task]
        else f"{task} ({', '.join(part.name for part in parts)})"
        for task, parts in TASKS.items()
    ]
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        choices=list(dict.fromkeys((*TASKS, *PARTS))),
        metavar="TASK",
        help=f"any of {', '.join(names)}; a part may be named alone (default: all)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--blind", action="store_true", help="show grey pictures instead: guessing"
    )
    instead.add_argument(
        "--swap", action="store_true", help="show the pictures of another question instead"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="answered at a time (default: 8)"
    )
    parser.add_argument(
        "--answers",
        metavar="FILE",
        help="one JSON line per answer; an interrupted run goes on from there",
    )
    parser.add_argument(
        "--failures", metavar="FILE", help="draw wrong answers with their pictures, a PNG"
    )
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table on stdout, and say on stderr where it is."""
    for name in ("items", "batch_size"):
        if getattr(args, name) < 1:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is {getattr(args, name)}; it must be at least 1.")
    chat = load(
        args.model,
        device=args.device,
        dtype=args.dtype,
        quantize=args.quantize,
        progress=False,
    )
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
    file = AnswerFile(Path(args.answers) if args.answers else None, settings)
    sheet = ContactSheet()
    rows: list[Score] = []
    for part in parts_of(args.tasks):
        results = evaluate(
            chat,
            part,
            split=args.split,
            seed=args.seed,
            number=args.items,
            pictures=pictures,
            batch_size=args.batch_size,
            file=file,
            tell=_Progress(part.name),
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
