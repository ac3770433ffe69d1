"""`minicpmv verify`: two roads to one number, and replay of golden cases."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .attachments import read_picture
from .options import add_model_options, load_options

DESCRIPTION = """\
Compare a model with itself run another way, stage by stage, or with another format of it.

Pixels, slices and prompt must be equal; vision, resampler and logits within a stated tolerance;
greedy answers the same except at near ties. The exit code is 1 where a stage drifts. With --golden
it replays what the released code computed.

Here --dtype is that of the reference, float32 when left out, and --quantize that of the other side.
"""

EPILOG = """\
examples:
  minicpmv verify
  minicpmv verify ./MiniCPM-V-2_6 --roads batched uncached
  minicpmv verify ./MiniCPM-V-2_6 --against ./MiniCPM-V-2_6-int4 --roads none
  minicpmv verify ./MiniCPM-V-2_6 --quantize int4 --roads none
  minicpmv verify ./my-model --image street.jpg --prompt "What is written on the sign?"
  minicpmv verify --golden tests/golden
"""
ROADS = ("batched", "uncached", "streamed", "attention", "reloaded", "dtypes")


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "verify",
        usage="minicpmv verify [options] [MODEL]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="folder, name on the hub, or nano (the default); with --golden, the checkpoint to use "
        "in place of the one beside the cases",
    )
    parser.add_argument(
        "--against", metavar="OTHER", help="another format of the model, or a copy of it"
    )
    parser.add_argument(
        "--golden", metavar="DIR", help="replay golden cases: of one model, or of a folder of them"
    )
    parser.add_argument(
        "--roads",
        nargs="+",
        metavar="ROAD",
        choices=[*ROADS, "none"],
        help=f"any of {', '.join(ROADS)} (default: all), or none",
    )
    parser.add_argument(
        "--image",
        metavar="FILE",
        nargs="+",
        default=[],
        help="pictures of your own, as one more probe",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what to ask about them")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=12,
        metavar="N",
        help="greedy tokens per probe (default: 12)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_options(parser, flag=False)


def run(args: argparse.Namespace) -> int:
    if args.golden is not None:
        return _replay(args)
    return _walk(args)


def _replay(args: argparse.Namespace) -> int:
    """Replay golden cases, one line per case; the exit code."""
    for name in ("against", "roads", "prompt"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} has no effect with --golden; remove it.")
    if args.image or load_options(args):
        raise ValueError("Golden cases have their own pictures, in float32 on the CPU.")

    from minicpmv.checkpoint.hub import Checkpoint
    from minicpmv.verify.golden import find_cases, replay, summary
    from minicpmv.verify.report import case_as_data, case_as_line, summary_as_text

    reports = []
    checkpoint = None if args.model is None else Path(Checkpoint.find(args.model).location)
    for folder in find_cases(Path(args.golden)):
        _progress(f"{folder}")
        for report in replay(folder, checkpoint):
            reports.append(report)
            if not args.json:
                print(case_as_line(report), flush=True)
    counts = summary(reports)
    if args.json:
        cases = [case_as_data(report) for report in reports]
        print(json.dumps({"summary": counts, "cases": cases}, ensure_ascii=False))
    else:
        print(summary_as_text(counts, reports))
    # Where nothing was compared, nothing was proven.
    return 1 if counts["failed"] or not counts["passed"] else 0


def _walk(args: argparse.Namespace) -> int:
    """Compare roads; the exit code."""
    if args.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {args.max_new_tokens}; it must be at least 1.")
    roads = [] if args.roads == ["none"] else args.roads or ROADS
    if "none" in roads:
        raise ValueError("--roads none stands alone; remove it, or the others.")
    pictures = [read_picture(file) for file in args.image]

    from minicpmv.checkpoint.hub import Checkpoint
    from minicpmv.loader import load
    from minicpmv.verify.probes import built_in_probes, own_probe
    from minicpmv.verify.report import roads_as_data, roads_as_text
    from minicpmv.verify.roads import verify

    options: dict[str, Any] = load_options(args)
    dtype = options.pop("dtype", "float32")
    changes = {"quantize": options.pop("quantize")} if "quantize" in options else {}
    model = args.model or "nano"
    other = model if args.against is None and changes else args.against
    if not roads and other is None:
        raise ValueError(
            "--roads none leaves nothing to compare without --against OTHER or --quantize."
        )

    if args.against is not None:
        Checkpoint.find(args.against)  # a wrong name costs no waiting
    elsewhere = {**options, "revision": None}

    def load_model(name: str = model, **chosen: Any) -> Any:
        return load(name, progress=False, **(options if name == model else elsewhere), **chosen)

    def load_other(**chosen: Any) -> Any:
        kept = options if args.against is None else elsewhere
        return load(other, progress=False, **{**kept, **changes, **chosen})

    def probes_of(chat: Any) -> list[Any]:
        supports_images = hasattr(chat.processor, "image_processor")
        if pictures and not supports_images:
            raise ValueError(f"{chat.name!r} is a text model; it cannot be shown --image.")
        own = [own_probe(pictures, args.prompt)] if pictures or args.prompt else []
        return [*built_in_probes(supports_images), *own]

    facts, results = verify(
        load_model,
        load_other if other is not None else None,
        probes_of,
        roads=roads,
        dtype=dtype,
        num_tokens=args.max_new_tokens,
        report=_progress,
    )
    data = roads_as_data(facts, results)
    print(json.dumps(data, ensure_ascii=False) if args.json else roads_as_text(facts, results))
    return 0 if data["passed"] else 1


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
