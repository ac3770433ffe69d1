"""`minicpmv verify`: one model in several configurations, or beside another format of it."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from ..verify import CHECKS
from .attachments import read_picture
from .options import add_model_options, load_options
from .usage import UsageError

DESCRIPTION = """\
Compare a model with itself run another way, stage by stage, or with another format of it.

Pixels, slices and prompt must be equal; vision, resampler and logits within a stated tolerance;
greedy answers the same except at near ties. The exit code is 1 where a check fails.

Here --dtype is that of the reference, float32 when left out, and --quantize that of the other side.
"""

EPILOG = """\
examples:
  minicpmv verify
  minicpmv verify ./MiniCPM-V-2_6 --checks batched uncached
  minicpmv verify ./MiniCPM-V-2_6 --against ./MiniCPM-V-2_6-int4 --checks none
  minicpmv verify ./MiniCPM-V-2_6 --quantize int4 --checks none
  minicpmv verify ./MiniCPM-2B --against MiniCPM-2B-Q4_K_M.gguf --checks none
  minicpmv verify ./merged --against ./my-adapter --checks none
  minicpmv verify ./my-model --image street.jpg --prompt "What is written on the sign?"
"""


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
        help="folder, name on the hub, or nano (the default)",
    )
    parser.add_argument(
        "--against", metavar="OTHER", help="another format of the model, or a copy of it"
    )
    parser.add_argument(
        "--against-adapter", metavar="DIR", help="a fine-tuned adapter for OTHER, or for the model"
    )
    parser.add_argument(
        "--against-mmproj",
        metavar="FILE",
        help="of OTHER, a GGUF file, the one with its vision side",
    )
    names: dict[str, Any] = {"nargs": "+", "metavar": "CHECK", "choices": [*CHECKS, "none"]}
    parser.add_argument(
        "--checks", **names, help=f"any of {', '.join(CHECKS)} (default: all), or none"
    )
    # Names of earlier versions.
    parser.add_argument("--roads", **names, help=argparse.SUPPRESS)
    parser.add_argument("--golden", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument(
        "--image",
        metavar="FILE",
        nargs="+",
        default=[],
        help="pictures of your own, as one more test prompt",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what to ask about them")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=12,
        metavar="N",
        help="greedy tokens per test prompt (default: 12)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_options(parser, flag=False)


def run(args: argparse.Namespace) -> int:
    if args.golden is not None:
        raise UsageError(
            "--golden has moved to the repository's tests: pytest tests/replay --golden "
            f"{args.golden}"
        )
    if args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens is {args.max_new_tokens}; it must be at least 1.")
    if args.prompt is not None and not args.prompt.strip():
        raise UsageError("--prompt is empty; give a question or an instruction.")
    checks = _checks(args)
    pictures = [read_picture(file) for file in args.image]

    from minicpmv.loader import load
    from minicpmv.verify.checks import verify
    from minicpmv.verify.prompts import built_in_prompts, own_prompt
    from minicpmv.verify.report import checks_as_data, checks_as_text

    options: dict[str, Any] = load_options(args)
    dtype = options.pop("dtype", "float32")
    changes = {"quantize": options.pop("quantize")} if "quantize" in options else {}
    if args.against_adapter is not None:
        changes["adapter"] = args.against_adapter
    model = "nano" if args.model is None else args.model
    other = model if args.against is None and changes else args.against
    if not checks and other is None:
        raise UsageError(
            "--checks none leaves nothing to compare without --against OTHER, --against-adapter or "
            "--quantize."
        )

    _check_kinds(
        model,
        args.against,
        options.get("revision"),
        (options.get("mmproj"), args.against_mmproj),
        shows_images=bool(pictures),
    )
    elsewhere = {**options, "revision": None, "adapter": None, "mmproj": args.against_mmproj}

    def load_model(name: str = model, **chosen: Any) -> Any:
        return load(name, progress=False, **(options if name == model else elsewhere), **chosen)

    def load_other(**chosen: Any) -> Any:
        kept = options if args.against is None else elsewhere
        return load(other, progress=False, **{**kept, **changes, **chosen})

    def prompts_of(chat: Any) -> list[Any]:
        supports_images = hasattr(chat.processor, "image_processor")
        own = [own_prompt(pictures, args.prompt)] if pictures or args.prompt else []
        return [*built_in_prompts(supports_images), *own]

    facts, results = verify(
        load_model,
        load_other if other is not None else None,
        prompts_of,
        checks=checks,
        dtype=dtype,
        num_tokens=args.max_new_tokens,
        report=_progress,
    )
    data = checks_as_data(facts, results)
    print(json.dumps(data, ensure_ascii=False) if args.json else checks_as_text(facts, results))
    return 0 if data["passed"] else 1


def _check_kinds(
    model: str,
    against: str | None,
    revision: str | None,
    mmproj: tuple[str | None, str | None],
    *,
    shows_images: bool,
) -> None:
    """Refuse, from `config.json` alone, what no loading would help.

    Raises:
        ValueError: a text model is to be shown images, or the two are not one model.
        OSError: there is no such model or file.
    """
    from minicpmv.adapters.folder import base_of, is_adapter
    from minicpmv.gguf.reading.model import language_of
    from minicpmv.loader import find_checkpoint
    from minicpmv.releases import VISION_TYPES, model_type_of, release_of, text_release_of

    def read(name: str, revision: str | None, vision: str | None) -> dict[str, Any]:
        name = base_of(name) if is_adapter(name) else name
        with find_checkpoint(name, vision, revision=revision) as found:
            return found.read_json("config.json")

    def row(fields: dict[str, Any]) -> Any:
        if language_of(fields) is not None:
            return language_of(fields)
        return (release_of if model_type_of(fields) in VISION_TYPES else text_release_of)(fields)

    config = read(model, revision, mmproj[0])
    supports_images = model_type_of(config) in VISION_TYPES
    if shows_images and not supports_images:
        raise ValueError(f"{model!r} is a text model; it cannot be shown --image.")
    if against is None:
        return
    other = read(against, None, mmproj[1])
    ours, theirs = row(config), row(other)
    if ours != theirs:
        raise ValueError(
            f"{model!r} is of the kind of {ours.name} and --against {against!r} of {theirs.name}; "
            "give another format of the same model."
        )
    if supports_images and model_type_of(other) not in VISION_TYPES:
        raise ValueError(
            f"--against {against!r} is the language model of {theirs.name} alone; give the GGUF "
            "file with its vision side as --against-mmproj."
        )


def _checks(args: argparse.Namespace) -> Sequence[str]:
    """The checks that were asked for; none of them where only --against counts."""
    if args.roads is not None:
        if args.checks is not None:
            raise UsageError("--roads is the old name of --checks; give one of them.")
        _progress("--roads is the old name of --checks and will go with the next version.")
    checks = args.checks or args.roads or CHECKS
    if checks == ["none"]:
        return []
    if "none" in checks:
        raise UsageError("--checks none stands alone; remove it, or the others.")
    return checks


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
