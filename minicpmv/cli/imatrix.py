"""`minicpmv imatrix`: which columns of a model matter, for small GGUF files."""

import argparse
import sys
from pathlib import Path

from minicpmv.errors import OutputExistsError
from minicpmv.progress import bar

from .options import add_model_options, load_options, name_precision
from .outputs import check_file
from .startup import imports
from .usage import UsageError

DESCRIPTION = """\
Run text and pictures through MODEL and write an importance matrix: for every matrix of the language
model, how much of each column was used. With it, a small GGUF file keeps more of the model:

  minicpmv export gguf MODEL gguf --type Q3_K_M --imatrix OUT

llama-quantize takes the file, too. Take data like the questions that the model will be asked.

FILE is text, which is cut into chunks; or, ending in .jsonl, one JSON object per line:
  {"prompt": "What is it?", "images": ["a.png"], "answer": "A cat."}
Only the prompt is needed. Names of pictures are those beside the file. A run that was stopped goes
on where it was.
"""

EPILOG = """\
examples:
  minicpmv imatrix openbmb/MiniCPM-V-2_6 imatrix.gguf --data questions.jsonl text.txt
  minicpmv imatrix nano imatrix.gguf --data text.txt --chunks 100
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "imatrix",
        usage="minicpmv imatrix [options] MODEL OUT --data FILE [FILE ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="folder, name on the hub, or nano")
    parser.add_argument("out", metavar="OUT", help="file to write, .gguf")
    parser.add_argument("--data", nargs="+", metavar="FILE", required=True, help="text or .jsonl")
    parser.add_argument(
        "--chunk-size", type=int, default=512, metavar="N", help="tokens of text (default: 512)"
    )
    parser.add_argument(
        "--chunks", type=int, metavar="N", help="stop after so many chunks and questions"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    add_model_options(parser, flag=False)


def run(args: argparse.Namespace) -> None:
    _check(args)
    with imports():
        from minicpmv.export.imatrix import make_imatrix
        from minicpmv.loader import load

        chat = load(args.model, progress=sys.stderr.isatty(), **load_options(args))
    name_precision(chat)

    with bar("chunks", leave=True) as show:
        matrix = make_imatrix(
            chat,
            args.data,
            chunk_size=args.chunk_size,
            most=args.chunks,
            part=f"{args.out}.sums",
            on_progress=show,
        )
    matrix.write(args.out)
    tokens = max(int(entry.counts.max()) for entry in matrix.entries.values())
    print(f"{args.out}: {len(matrix.entries)} matrices, {tokens:,} tokens")


def _check(args: argparse.Namespace) -> None:
    """What would fail at the end fails before the model is loaded."""
    check_file("OUT", args.out)
    if Path(args.out).suffix != ".gguf":
        raise UsageError(f"OUT is {args.out!r}; it must end in .gguf.")
    if Path(args.out).exists() and not args.overwrite:
        raise OutputExistsError.of(args.out)
    if getattr(args, "quantize", None) is not None:
        raise UsageError("--quantize would measure other inputs than the model's; leave it out.")
    for name in ("chunk_size", "chunks"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
    for path in args.data:
        if not Path(path).is_file():
            raise FileNotFoundError(f"--data: {path!r} is not there.")
