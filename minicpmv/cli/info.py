"""`minicpmv info`: what a model is, and whether its files agree with each other."""

import argparse
import json
from typing import Any

from .slice import slice_limits

DESCRIPTION = """\
Show what a model is made of, and whether its files agree with each other; of an adapter its model,
and what was trained.

The exit code is 1 when they do not. No weights are loaded; those on this disk are compared with the
model by name and shape.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "info", usage="minicpmv info [options] [MODEL]", description=DESCRIPTION
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="nano",
        help="folder, name on the hub, or nano (the default)",
    )
    parser.add_argument("--mmproj", metavar="FILE", help="of a GGUF file, its vision side")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    if args.mmproj is not None or args.model.lower().endswith(".gguf"):
        from minicpmv.inspection import inspect
        from minicpmv.loader import find_checkpoint

        with find_checkpoint(args.model, args.mmproj, revision=args.revision) as found:
            return _print(inspect(found), args)
    from minicpmv.checkpoint.hub import Checkpoint

    checkpoint = Checkpoint.find(args.model, revision=args.revision)
    is_whole = checkpoint.find_file("config.json") is not None
    if not is_whole and checkpoint.find_file("adapter_config.json") is not None:
        from minicpmv.adapters.about import about_adapter
        from minicpmv.adapters.folder import AdapterFiles

        about = about_adapter(AdapterFiles.find(args.model))
        print(json.dumps(about, ensure_ascii=False) if args.json else adapter_as_text(about))
        return 0
    checkpoint.read_json("config.json")  # before torch is imported

    from minicpmv.inspection import inspect

    return _print(inspect(checkpoint), args)


def _print(report: dict[str, Any], args: argparse.Namespace) -> int:
    print(json.dumps(report, ensure_ascii=False) if args.json else as_text(report))
    return 1 if report["mismatches"] else 0


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{report['model']}: {report['release']}", ""]
    for part, count in report["parameters"].items():
        shape = report["shapes"].get(part, {})
        facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shape.items())
        lines.append(f"{part:15}{count:>15,}  {facts}".rstrip())
    memory = (f"{_in_units(size)} as {dtype}" for dtype, size in report["memory_bytes"].items())
    lines += ["", f"{'memory':15}{', '.join(memory)}"]
    here = report["precision"]
    lines.append(f"{'computed in':15}{here['dtype']} on {here['device']}: {here['reason']}")
    weights = report["weights"]
    if weights:
        packed = f", packed as {weights['packed_as']}" if weights["packed_as"] else ""
        dtypes = ", ".join(weights["dtypes"])
        lines.append(f"{'weights':15}{weights['tensors']} tensors, {dtypes}{packed}")
        if "here" in weights:
            lines.append(f"{'loaded':15}{weights['here']}")
    else:
        lines.append(f"{'weights':15}not on this disk, so not compared with the model")
    slicing = report["slicing"]
    if slicing is None:
        lines.append(f"{'pictures':15}none: it reads text only")
    else:
        limits = slice_limits(
            slicing.get("scale_resolution"),
            slicing.get("max_slice_nums"),
            slicing.get("image_size"),
        )
        lines.append(f"{'pictures':15}{limits}, {slicing['image_feature_size']} tokens per slice")
    lines += ["", "special tokens"]
    lines += [f"  {token:22}{index}" for token, index in report["special_tokens"].items()]
    problems = report["mismatches"]
    lines += ["", "The files disagree:" if problems else "The files agree with each other."]
    lines += [f"  {problem}" for problem in problems]
    return "\n".join(lines)


def adapter_as_text(about: dict[str, Any]) -> str:
    """What an adapter is, for people."""
    base = about["base_model"]
    revision = f" at {about['base_revision']}" if about["base_revision"] else ""
    lines = [f"{about['adapter']}: an adapter ({about['kind']}) of {base}{revision}", ""]
    for kind, count in about["parameters"].items():
        fact = f"  rank {about['rank']}, alpha {about['alpha']:g}" if kind == "low rank" else ""
        lines.append(f"{kind:15}{count:>15,}{fact if about['rank'] else ''}")
    facts = {
        "release": about["release"],
        "trained": _parts_as_text(about["parts"] or {}),
        "weights": f"{about['tensors']} tensors, {', '.join(about['dtypes'])}",
        "slices": about["max_slice_nums"],
        "data": ", ".join(about["data"]),
        "written by": about["package"] and f"minicpmv {about['package']}",
    }
    lines += ["", *(f"{name:15}{value}" for name, value in facts.items() if value)]
    lines += ["", f"Its weights go on top of the model's: load({base!r}, adapter=...)."]
    return "\n".join(lines)


def _parts_as_text(parts: dict[str, Any]) -> str:
    """ "language lora, resampler whole": what was trained."""
    named = {True: "whole", "full": "whole", "lora": "adapters"}
    return ", ".join(f"{name} {named[how]}" for name, how in parts.items() if how in named)


def _in_units(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
