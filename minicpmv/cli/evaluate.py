"""`minicpmv evaluate`: one subcommand per benchmark."""

import argparse
from pathlib import Path

from .options import add_model_options, load_options, name_precision
from .startup import imports
from .usage import UsageError

DESCRIPTION = "Run a benchmark on a model. The table goes to stdout, everything else to stderr."


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser("evaluate", description=DESCRIPTION)
    benchmarks = parser.add_subparsers(
        title="benchmarks", dest="benchmark", metavar="BENCHMARK", required=True
    )
    benchmark = benchmarks.add_parser(
        "scenes",
        help="questions about drawn pictures",
        description=(
            "Ask a model about drawn pictures that nano has not seen in training: other seeds, "
            "other words, other typefaces."
        ),
    )
    _add_scene_options(benchmark)
    benchmark.set_defaults(run_benchmark=run_scenes)


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    from minicpmv.evaluate.scenes.tasks import SUBTASKS, TASKS  # draws pictures, needs no torch

    add_model_options(parser)
    parser.add_argument("--split", default="test", choices=("train", "test"), help="default: test")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the pictures (default: 0)"
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
        choices=list(dict.fromkeys((*TASKS, *SUBTASKS))),
        metavar="TASK",
        help=f"any of {', '.join(names)}; a part may be named alone (default: all)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--blind", action="store_true", help="show grey pictures instead: the score of guessing"
    )
    instead.add_argument(
        "--swap", action="store_true", help="show the pictures of another question instead"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="questions answered at a time (default: 32)",
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


def run_scenes(args: argparse.Namespace) -> int:
    for name, least in (("items", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(args, name) < least:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is {getattr(args, name)}; it must be at least {least}.")
    if args.failures is not None and Path(args.failures).suffix.lower() != ".png":
        raise UsageError(f"--failures is {args.failures!r}; it must end in .png.")
    for name in ("answers", "failures"):
        check_file(f"--{name}", getattr(args, name))
    from minicpmv.evaluate.metrics.distance import levenshtein
    from minicpmv.evaluate.scenes.tasks import needs_edit_distance

    if needs_edit_distance(args.tasks):
        levenshtein()  # missing, it is named before a model is loaded
    with imports():
        from minicpmv.evaluate.scenes import run  # torch, only when it is needed
        from minicpmv.loader import load

        chat = load(args.model, progress=False, **load_options(args))
    name_precision(chat)
    return run(chat, args)


def check_file(flag: str, name: str | None) -> None:
    """A file that cannot be written is named before a model is loaded, not after its answers."""
    if name is None:
        return
    if not name:
        raise UsageError(f"{flag} is empty; name a file.")
    if Path(name).is_dir():
        raise OSError(f"{flag} {name!r} is a folder; name a file.")
    if not Path(name).parent.is_dir():
        raise OSError(f"{flag} {name!r}: there is no folder {str(Path(name).parent)!r}; make it.")


def run(args: argparse.Namespace) -> int:
    return args.run_benchmark(args)
