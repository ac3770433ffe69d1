"""Decisions beside free answers, and their calibration, on drawn pictures that were held out.

    python benchmarks/decisions.py [--items N]

The calibration is fitted on pictures of one seed and measured on those of another. The times are
those of one request alone, with nothing remembered.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from minicpmv import Chat, load
from minicpmv.decisions.calibrate import decide_examples
from minicpmv.decisions.examples import Labelled
from minicpmv.decisions.fit import Fit, accuracy, calibrated, ece, fit, reliability
from minicpmv.evaluate.decisions import TASKS, draw_examples

FIT_SEED, TEST_SEED = 0, 1
TIMED = 20  # of each task
GREEDY: dict[str, Any] = {"sampling": False, "num_beams": 1}
HEAD = (
    "task",
    "choices",
    "free answers right",
    "decisions right",
    "mass of the choices",
    "calibration error before",
    "after",
)
OF_TIMES = ("answer, ms", "decision, ms")

Part = tuple[list[Labelled], list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200, help="of each task, and as many to fit")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--times", action="store_true", help="time single requests, too")
    args = parser.parse_args()
    chat = load("nano")
    fitted, tested = (
        {name: _part(chat, name, seed, args.items) for name in args.tasks}
        for seed in (FIT_SEED, TEST_SEED)
    )
    found = fit(*_flat(fitted.values()), with_bias=False)
    print(f"{args.items} examples of each task, as many others to fit: ", end="")
    print(f"temperature {found.temperature:.3f}; {chat.precision}\n")
    head = (*HEAD, *OF_TIMES) if args.times else HEAD
    print(f"| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    frees = {name: _free(chat, tested[name][0]) for name in args.tasks}
    for name, part in tested.items():
        some, ways = part[0][:TIMED], (_answer, _decide) if args.times else ()
        times = [f"{_ms(chat, some, way):.1f}" for way in ways]
        print(_row(name, str(len(part[0][0].question.labels)), [part], found, frees[name], times))
    free = statistics.mean(frees.values())
    print(_row("all", "", list(tested.values()), found, free, [""] * (len(head) - len(HEAD))))


def _part(chat: Chat, name: str, seed: int, number: int) -> Part:
    examples = draw_examples(number, tasks=[name], seed=seed)
    print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    return examples, decide_examples(chat, examples)


def _flat(parts: Iterable[Part]) -> tuple[list[list[float]], list[int]]:
    """Log-probabilities, and the places of the right answers."""
    pairs = [(each, example) for part in parts for example, each in zip(*part, strict=True)]
    scores = [list(each.values()) for each, _ in pairs]
    return scores, [list(each).index(example.answer) for each, example in pairs]


def _free(chat: Chat, examples: Sequence[Labelled]) -> float:
    """How many greedy answers are right, in any of their spellings."""
    requests = [(each.question.text, each.images) for each in examples]
    answers = chat.batch(requests, **GREEDY)
    pairs = zip(answers, examples, strict=True)
    return statistics.mean(str(a) in each.question.spellings[each.answer] for a, each in pairs)


def _row(
    name: str, choices: str, parts: list[Part], found: Fit, free: float, times: list[str]
) -> str:
    scores, answers = _flat(parts)
    raw = [calibrated(each, Fit(1.0)) for each in scores]
    new = [calibrated(each, found) for each in scores]
    mass = statistics.mean(_mass(each) for _, rows in parts for each in rows)
    errors = [f"{ece(reliability(each, answers)):.3f}" for each in (raw, new)]
    cells = [name, choices, f"{free:.1%}", f"{accuracy(raw, answers):.1%}", f"{mass:.3f}"]
    return f"| {' | '.join([*cells, *errors, *times])} |"


def _mass(logprobs: dict[str, float]) -> float:
    return math.fsum(map(math.exp, logprobs.values()))


def _ms(chat: Chat, examples: Sequence[Labelled], way: Callable[[Chat, Labelled], Any]) -> float:
    """The median time of one request."""
    times = []
    for each in examples:
        chat.engine.forget()
        begin = time.perf_counter()
        way(chat, each)
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def _answer(chat: Chat, example: Labelled) -> Any:
    return chat.ask(example.question.text, example.images, **GREEDY)


def _decide(chat: Chat, example: Labelled) -> Any:
    return chat.decide_all([example.question], example.images)


if __name__ == "__main__":
    main()
