"""`minicpmv evaluate`: benchmarks of the model cards, drawn pictures, or one's own questions."""

import argparse
from math import inf
from pathlib import Path
from typing import Any

from minicpmv.errors import meant

from .options import add_model_options, load_options, name_precision
from .outputs import check_file, check_replaced, is_drawn_by
from .startup import imports
from .usage import UsageError

DESCRIPTION = """\
Ask a model the questions of benchmarks, as its card did, and score the answers. The table goes to
stdout, everything else to stderr. Answers stand in a folder as they come: after any end, the same
command goes on from there.

TASK is a benchmark (--list shows all), scenes or a part of it as scenes/reading, or a file of your
own: .jsonl, .tsv or .parquet, with --metric.
"""

EPILOG = """\
examples:
  minicpmv evaluate --list
  minicpmv evaluate --show ocrbench -m openbmb/MiniCPM-V-2_6
  minicpmv evaluate ocrbench mme -m openbmb/MiniCPM-V-2_6 --card
  minicpmv evaluate mmbench-en-v11-dev -m ./MiniCPM-V-2_6 --workers 8
  minicpmv evaluate textvqa-val --base-url http://10.0.0.2:8000 http://10.0.0.3:8000
  minicpmv evaluate mmvet --judge https://api.openai.com --judge-model gpt-4.1
  minicpmv evaluate mine.jsonl --metric anls --html
  minicpmv evaluate --compare runs/a runs/b
  minicpmv evaluate scenes --tasks reading --items 50
"""
COT = "ask for a chain of thought, or not (default: as the model's card did)"


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "evaluate",
        usage="minicpmv evaluate [options] TASK ...",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("tasks_asked", metavar="TASK", nargs="*", help="what is asked")
    add_model_options(parser)
    _add_looking(parser)
    _add_asking(parser)
    _add_scoring(parser)
    _add_running(parser)
    _add_scene_options(parser)


def _add_looking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("instead of asking")
    add = group.add_mutually_exclusive_group().add_argument
    add("--list", action="store_true", help="show all benchmarks")
    add("--show", metavar="TASK", help="show how a benchmark is asked, and where its data is")
    add("--compare", metavar="RUN", nargs=2, help="compare the answers of two folders")
    add("--rescore", metavar="RUN", help="score the answers of a folder again")


def _add_asking(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "what is asked (by default as the model's card did)"
    ).add_argument
    add("--data", metavar="PATH", help="file or folder with the data (default: $LMUData, the hub)")
    add("--limit", type=int, metavar="N", help="ask the first N items only")
    add("--profile", metavar="NAME", help="in whose words: 2.6, 2.6-cot, default ...")
    add("--cot", action=argparse.BooleanOptionalAction, default=None, help=COT)
    add("--beams", type=int, metavar="N", help="beams; 1 decodes greedily")
    add("--repetition-penalty", type=float, metavar="X", help="1: none")
    add("--max-new-tokens", type=int, metavar="N", help="longest answer, in tokens")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how answers are scored")
    add = group.add_argument
    add("--metric", metavar="NAME", help="of a file of your own, as anls or exact-match")
    add("--rules", choices=("vlmevalkit", "vlmevalkit-fork", "lmms-eval"),
        default="vlmevalkit-fork",
        help="whose reading of an answer (default: vlmevalkit-fork, as the cards)")  # fmt: skip
    add("--judge", metavar="WHO", default="exact",
        help="exact: rules alone (the default); the address of a server, or a model to load, for "
        "what rules cannot read")  # fmt: skip
    add("--judge-model", metavar="NAME",
        help="of that server; its key: $MINICPMV_JUDGE_KEY or $OPENAI_API_KEY")  # fmt: skip
    add("--judge-timeout", type=float, default=120, metavar="S",
        help="seconds for one of its answers (default: 120)")  # fmt: skip
    add("--coco", metavar="DIR", help="COCO's annotations of 2014, for object-halbench")
    add("--card", action="store_true", help="compare with the score on the model's card")
    add("--html", action="store_true", help="write report.html: failures with their pictures")
    add("--json", action="store_true", help="print the scores as JSON")


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where and how it runs").add_argument
    add("--out", metavar="DIR",
        help="folder of the run, or of several (default: runs/evaluate/TASK-MODEL)")  # fmt: skip
    add("--batch-size", type=int, default=32, metavar="N",
        help="items answered at a time, by each worker or server (default: 32)")  # fmt: skip
    add("--workers", type=int, metavar="N", help="processes of this machine, a model in each "
        "(default: one, or of a small model on a CPU one for each core and 200 items)")  # fmt: skip
    add(
        "--base-url",
        metavar="URL",
        nargs="+",
        action="extend",
        help="running servers, ours or others'",
    )
    add("--api-key", metavar="KEY", help="of the servers (default: $MINICPMV_API_KEY)")
    add("--answer-timeout", type=float, metavar="S",
        help="seconds that a server may take for one answer (default: 600)")  # fmt: skip


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    from minicpmv.evaluate.scenes.tasks import SUBTASKS, TASKS  # draws pictures, needs no torch

    group = parser.add_argument_group("drawn pictures (the task scenes)")
    add = group.add_argument
    add("--split", default="test", choices=("train", "test"), help="default: test")
    add("--seed", type=int, default=0, metavar="N", help="seed of the pictures (default: 0)")
    add("--items", type=int, default=200, metavar="N", help="items of each part (default: 200)")
    # The option's name when every task had one part.
    add("--scenes", dest="items", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    names = [
        task
        if [part.name for part in parts] == [task]
        else f"{task} ({', '.join(part.name for part in parts)})"
        for task, parts in TASKS.items()
    ]
    add(
        "--tasks",
        nargs="+",
        choices=list(dict.fromkeys((*TASKS, *SUBTASKS))),
        metavar="PART",
        help=f"any of {', '.join(names)}; a part may be named alone (default: all)",
    )
    instead = group.add_mutually_exclusive_group()
    instead.add_argument(
        "--blind", action="store_true", help="show grey pictures instead: the score of guessing"
    )
    instead.add_argument(
        "--swap", action="store_true", help="show the pictures of another question instead"
    )
    add("--answers", metavar="FILE",
        help="one JSON line per answer; an interrupted run goes on from there")  # fmt: skip
    add("--failures", metavar="FILE", help="draw wrong answers with their pictures, a PNG")
    add("--overwrite", action="store_true", help="replace another file that is at --failures")


def run(args: argparse.Namespace) -> int:
    for name, least in (
        ("items", 1), ("batch_size", 1), ("seed", 0), ("limit", 1), ("workers", 1), ("beams", 1),
        ("max_new_tokens", 1),
    ):  # fmt: skip
        value = getattr(args, name)
        if value is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is {value}; it must be at least {least}.")
    penalty = args.repetition_penalty
    if penalty is not None and not 0 < penalty < inf:
        raise UsageError(f"--repetition-penalty is {penalty:g}; it must be a number above 0.")
    if args.list or args.show or args.rescore or args.compare:
        return _look(args)
    if not args.tasks_asked:
        raise UsageError("name a TASK; minicpmv evaluate --list shows what there is.")
    of_scenes = [task for task in args.tasks_asked if task.partition("/")[0] == "scenes"]
    pages = [task for task in dict.fromkeys(args.tasks_asked) if task not in of_scenes]
    parts = _scene_parts(of_scenes, args)
    if pages and of_scenes and args.json:
        raise UsageError("--json is for scenes or for benchmarks; ask them one after the other.")
    if pages:
        from .evaluation import check

        check(args)
    code = 0
    if of_scenes:
        code = run_scenes(args, parts)
    if pages:
        from .evaluation import run_pages

        code = run_pages(args, pages) or code
    return code


def _look(args: argparse.Namespace) -> int:
    from . import evaluation_views

    if args.tasks_asked:
        word = args.tasks_asked[0]
        raise UsageError(f"{word!r} has no effect beside --list, --show, --rescore or --compare.")
    if args.list:
        return evaluation_views.list_pages(args)
    if args.show:
        return evaluation_views.show_page(args)
    if args.compare:
        return evaluation_views.compare(args)
    return evaluation_views.rescore(args)


def _scene_parts(names: list[str], args: argparse.Namespace) -> list[str]:
    """Parts of the task scenes, named as scenes/reading or by --tasks."""
    from minicpmv.evaluate.scenes.tasks import SUBTASKS, TASKS

    if not names:
        for flag in ("tasks", "answers", "failures", "overwrite", "blind", "swap"):
            if getattr(args, flag):
                raise UsageError(f"--{flag} is for the task scenes; remove it.")
        return []
    found = [name.partition("/")[2] for name in names]
    for part in found:
        if part and part not in (*TASKS, *SUBTASKS):
            known = dict.fromkeys((*TASKS, *SUBTASKS))
            raise UsageError(f"scenes has no part {part!r}.{meant(part, known)}")
    asked = args.tasks or (TASKS if "" in found else ())
    return [*dict.fromkeys([*filter(None, found), *asked])]


def run_scenes(args: argparse.Namespace, parts: list[str]) -> int:
    if args.base_url or args.workers:
        raise UsageError(
            "scenes are asked of a model in this process, without --base-url and --workers."
        )
    if args.failures is not None and Path(args.failures).suffix.lower() != ".png":
        raise UsageError(f"--failures is {args.failures!r}; it must end in .png.")
    for name in ("answers", "failures"):
        check_file(f"--{name}", getattr(args, name))
    if args.overwrite and args.failures is None:
        raise UsageError("--overwrite would have no effect without --failures.")
    from minicpmv.evaluate.metrics.distance import levenshtein
    from minicpmv.evaluate.scenes.failures import SOFTWARE
    from minicpmv.evaluate.scenes.tasks import needs_edit_distance

    if not args.overwrite:
        check_replaced(args.failures, "drawing of wrong answers", is_drawn_by(SOFTWARE))

    if needs_edit_distance(parts):
        levenshtein()  # missing, it is named before a model is loaded
    with imports():
        from minicpmv.evaluate.scenes import run  # torch, only when it is needed
        from minicpmv.loader import load

        chat = load(args.model, progress=False, **load_options(args))
    name_precision(chat)
    given: dict[str, Any] = {**vars(args), "tasks": parts}
    return run(chat, argparse.Namespace(**given))
