"""`minicpmv quantize`: weights of 4 or 8 bits, kept in a folder for the next start."""

import argparse

from minicpmv.progress import bar

from .options import add_output_options
from .usage import UsageError

DESCRIPTION = """\
Write a model with its weights in 4 or 8 bits. OUT is a complete folder, which every command and
`load` take.

  packed-int4, packed-int8 (or int8): for this package; mapped into memory, so that it starts at
            once, with the answers of --quantize on a CPU, which packs the weights at every start
  int4      bitsandbytes, the layout of the released -int4 checkpoints
  w4a16     compressed-tensors: vLLM, SGLang, transformers
  gptq      AutoGPTQ

The last three quantise the decoder's layers, and leave vision tower, resampler and head in full.
OUT appears only when it is whole. The memory needed is that of the result and one tensor.
"""

EPILOG = """\
examples:
  minicpmv quantize openbmb/MiniCPM-V-2_6 minicpm-v-2.6-int4
  minicpmv quantize openbmb/MiniCPM-V-2_6 minicpm-v-2.6-w4a16 --to w4a16
  minicpmv ask -m minicpm-v-2.6-int4 "What is written on the sign?" street.jpg
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "quantize",
        usage="minicpmv quantize [options] MODEL OUT",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="folder or name on the hub, full weights")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--to",
        choices=("packed-int4", "packed-int8", "int8", "int4", "w4a16", "gptq"),
        default="packed-int4",
        help="format to write (default: packed-int4)",
    )
    parser.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="inputs that share a scale in w4a16 and gptq: 32, 64, 128, or -1 for all "
        "of an output (default: 128)",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    add_output_options(parser)


def run(args: argparse.Namespace) -> None:
    if not args.out:
        raise UsageError("OUT is empty; name the folder to write.")
    from minicpmv.export.quantize import quantize

    with bar("tensors") as show:
        written = quantize(
            args.model,
            args.out,
            args.to,
            group_size=args.group_size,
            revision=args.revision,
            overwrite=args.overwrite,
            max_shard_size=args.max_shard_size,
            on_progress=show,
        )
    files = "file" if written.num_files == 1 else "files"
    print(
        f"{written.folder}: {written.format}, {_in_units(written.num_bytes)} in "
        f"{written.num_files} {files}, was {_in_units(written.full_bytes)}"
    )


def _in_units(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
