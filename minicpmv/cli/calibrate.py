"""`minicpmv calibrate`: probabilities of decisions that mean what they say."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.progress import bar

from .options import add_model_options, load_options, name_precision
from .outputs import check_file, check_replaced, is_drawn_by
from .startup import imports
from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.decisions.calibrate import Report

DESCRIPTION = """\
Decide labelled examples, fit a temperature to one part of them, and measure on the other how far
the probabilities are from the truth. The file is for `minicpmv ask --choices --calibration`, for
`minicpmv serve --calibration` and for `chat.decide(..., calibration=...)`, with this model only.

DATA is a file with one JSON object per line:
  {"question": "What is it?", "images": ["a.png"], "choices": ["cat", "dog"], "answer": "cat"}
  {"question": "Is it a cat?", "images": ["a.png"], "kind": "yesno", "answer": "yes"}
or the word scenes, for pictures drawn here, which nano knows.
"""

EPILOG = """\
examples:
  minicpmv calibrate scenes --out nano.json --plot nano.png
  minicpmv calibrate labelled.jsonl -m openbmb/MiniCPM-V-2_6 --out cats.json
  minicpmv calibrate labelled.jsonl --bias --out cats.json
"""
_SCENES = "scenes"


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "calibrate",
        usage="minicpmv calibrate [options] DATA --out FILE",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("data", metavar="DATA", help="a file of examples, or scenes")
    parser.add_argument("--out", metavar="FILE", required=True, help="the calibration, as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw the reliability diagram, a PNG")
    parser.add_argument(
        "--bias",
        action="store_true",
        help="fit a bias for each choice, too; all examples must have the same choices",
    )
    parser.add_argument(
        "--list-choices", action="store_true", help="write the choices below the question"
    )
    parser.add_argument(
        "--average-orders",
        choices=("cyclic", "all"),
        help="ask with the listed choices in several orders",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.5,
        metavar="X",
        help="share of the examples to measure on (default: 0.5)",
    )
    parser.add_argument(
        "--decisions",
        metavar="FILE",
        help="one JSON line per decided example; an interrupted run goes on from there",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace other files that are at --out and --plot"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--json", action="store_true", help="print the calibration as JSON")
    parser.add_argument("--max-slice-nums", type=int, metavar="N", help="as of minicpmv ask")
    _add_scene_options(parser)
    add_model_options(parser)


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scenes")
    group.add_argument(
        "--examples", type=int, metavar="N", help="how many are drawn (default: 2000)"
    )
    group.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="yes-no, colour, shape, counting, position, word"
    )


def run(args: argparse.Namespace) -> None:
    _check(args)
    asking = {"list_choices": args.list_choices, "average_orders": args.average_orders or False}
    examples = _examples(args, asking)
    _check_apart(args, examples)
    _check_there(examples)
    with imports():
        from minicpmv.decisions.calibrate import calibrate, decide_examples, divide
        from minicpmv.decisions.plot import SOFTWARE, check_matplotlib, draw
        from minicpmv.loader import load

        if args.plot:
            check_matplotlib()
        # What would fail at the end fails before the model is loaded.
        if not args.overwrite:
            is_it = _is_calibration_of(args.model)
            check_replaced(args.out, f"calibration of {args.model!r}", is_it)
            check_replaced(args.plot, "reliability diagram", is_drawn_by(SOFTWARE))
        dividing: dict[str, Any] = {
            "with_bias": args.bias,
            "held_out": args.held_out,
            "seed": args.seed,
        }
        divide(examples, **dividing)
        chat = load(args.model, progress=sys.stderr.isatty(), **load_options(args))
    name_precision(chat)
    options: dict[str, Any] = {}
    if args.max_slice_nums is not None:
        options["max_slice_nums"] = args.max_slice_nums

    with bar("examples", leave=True) as show:
        logprobs = decide_examples(
            chat,
            examples,
            file=None if args.decisions is None else Path(args.decisions),
            on_progress=show,
            **options,
        )
    report = calibrate(chat.model, args.model, examples, logprobs, **dividing)
    report.calibration.save(args.out)
    if args.plot:
        draw(report, args.plot)
    if args.json:
        print(json.dumps(asdict(report.calibration), ensure_ascii=False, indent=2))
    else:
        print(_table(report, args.out))
    if report.calibration.after.nll > report.calibration.before.nll:
        print(
            "minicpmv: the calibration does not help: the examples that were held out are less "
            "likely with it than without. Give more, like those it is for.",
            file=sys.stderr,
        )


def _check(args: argparse.Namespace) -> None:
    """What would fail at the end fails before the model is loaded."""
    for name in ("out", "plot", "decisions"):
        check_file(f"--{name}", getattr(args, name))
    if args.plot is not None and Path(args.plot).suffix.lower() != ".png":
        raise UsageError(f"--plot is {args.plot!r}; it must end in .png.")
    if not 0 < args.held_out < 1:
        raise UsageError(f"--held-out is {args.held_out}; it must be above 0 and below 1.")
    if args.seed < 0:
        raise UsageError(f"--seed is {args.seed}; it must be at least 0.")
    if args.average_orders and not args.list_choices:
        raise UsageError("--average-orders would have no effect without --list-choices.")
    if args.data != _SCENES:
        for name in ("examples", "tasks"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name} is for scenes; the examples of a file are all taken.")


def _check_apart(args: argparse.Namespace, examples: list[Any]) -> None:
    """What is written is no file that is read, nor another one that is written."""
    names = [name for each in examples for name in (*each.images, *each.videos)]
    read = {_identity(name) for name in names if isinstance(name, str)}
    read |= set() if args.data == _SCENES else {_identity(args.data)}
    written: dict[Any, str] = {}
    for flag in ("out", "plot", "decisions"):
        name = getattr(args, flag)
        if name is None:
            continue
        found = _identity(name)
        if found in read:
            raise UsageError(f"--{flag} {name!r} is a file that is read. Name another one.")
        if found in written:
            raise UsageError(f"--{written[found]} and --{flag} are both {name!r}. Name two files.")
        written[found] = flag


def _check_there(examples: list[Any]) -> None:
    """A file that is not there is named before hours of work, not in their middle."""
    from minicpmv.decisions.examples import is_address

    for each in examples:
        for name in (*each.images, *each.videos):
            if isinstance(name, str) and not is_address(name) and not os.path.exists(name):
                raise FileNotFoundError(f"{each.where}: there is no file {name!r}.")


def _is_calibration_of(model: str) -> Callable[[Path], bool]:
    from minicpmv.decisions.calibration import Calibration

    def is_it(path: Path) -> bool:
        try:
            return Calibration.load(path).model == model
        except ValueError:
            return False

    return is_it


def _identity(name: str) -> Any:
    """The same for all names of a file."""
    try:
        found = os.stat(name)
    except (OSError, ValueError):  # it is not there, or it is an address
        return os.path.realpath(name)
    return found.st_dev, found.st_ino


def _examples(args: argparse.Namespace, asking: dict[str, Any]) -> list[Any]:
    from minicpmv.decisions.examples import read_examples

    if args.data != _SCENES:
        return read_examples(args.data, **asking)
    from minicpmv.evaluate.decisions import TASKS, draw_examples

    tasks = args.tasks or list(TASKS)
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise UsageError(f"--tasks has {unknown[0]!r}; known are {', '.join(TASKS)}.")
    number = 2000 if args.examples is None else args.examples
    if number < 1:
        raise UsageError(f"--examples is {number}; it must be at least 1.")
    return draw_examples(number, tasks=tasks, seed=args.seed, **asking)


def _table(report: "Report", out: str) -> str:
    found = report.calibration
    lines = [
        f"| {found.num_held_out:,} examples held out | before | after |",
        "|---|---|---|",
    ]
    rows = (
        ("expected calibration error", "ece", "{:.3f}"),
        ("negative log-likelihood", "nll", "{:.3f}"),
        ("accuracy", "accuracy", "{:.1%}"),
    )
    for name, field, form in rows:
        values = [form.format(getattr(each, field)) for each in (found.before, found.after)]
        lines.append(f"| {name} | {' | '.join(values)} |")
    bias = "" if found.bias is None else f", a bias for each of {len(found.bias)} choices"
    lines.append(f"\n{out}: temperature {found.temperature:.3g}{bias}")
    return "\n".join(lines)
