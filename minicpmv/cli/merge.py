"""`minicpmv merge`: an adapter and its model to one checkpoint."""

import argparse

from minicpmv.progress import bar

from .options import add_output_options
from .usage import UsageError

DESCRIPTION = """\
Write a model with a fine-tuned adapter in its weights. OUT is a complete folder in the layout of
the release, which loads everywhere the model does, and answers faster than the two apart.

OUT appears only when it is whole. One file of weights is in memory at a time.
"""

EPILOG = """\
examples:
  minicpmv merge runs/gauges nano-gauges
  minicpmv merge runs/receipts receipts --model ./MiniCPM-V-2_6
  minicpmv verify receipts --against runs/receipts --checks none
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "merge",
        usage="minicpmv merge [options] ADAPTER OUT",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--model",
        metavar="BASE",
        help="model that it was trained on (default: the one that the adapter names)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the model on the hub")
    add_output_options(parser)


def run(args: argparse.Namespace) -> None:
    for name in ("adapter", "out"):
        if not getattr(args, name):
            raise UsageError(f"{name.upper()} is empty; name a folder.")
    from minicpmv.export.merge import merge

    with bar("tensors") as show:
        merged = merge(
            args.adapter,
            args.out,
            model=args.model,
            revision=args.revision,
            overwrite=args.overwrite,
            max_shard_size=args.max_shard_size,
            on_progress=show,
        )
    print(
        f"{merged.folder}: {merged.base} with {args.adapter}, {merged.num_changed} of "
        f"{merged.num_tensors} tensors changed, {merged.num_bytes / 1e6:.1f} MB"
    )
