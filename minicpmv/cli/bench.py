"""`minicpmv bench`: how fast a model runs here, and beside whom."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.bench.cases import FIGURES
from minicpmv.bench.shapes import SHAPES

from .options import add_model_options, load_options
from .startup import imports
from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.bench.session import Peer

DESCRIPTION = """\
Measure how fast a model answers here: encoding a picture, prefill, first token, decoding, many
answers at once, load time and memory.

With --against, the model and its peer take turns in one run, and the ratios of their rounds are
printed: absolute times differ between machines and moments. The table goes to stdout, progress to
stderr.
"""

EPILOG = """\
examples:
  minicpmv bench
  minicpmv bench --shape 2.6 --layers 4 --quantize int4
  minicpmv bench ./MiniCPM-V-2_6 --quantize int4 --against generate
  minicpmv bench ./MiniCPM-V-2_6 --quantize int4 --against llama.cpp model.gguf mmproj.gguf
  minicpmv bench --shape 2.6 --layers 4 --only encode --against ../an-older-checkout
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "bench",
        usage="minicpmv bench [options] [MODEL]",
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
        "--shape",
        choices=list(SHAPES),
        metavar="RELEASE",
        help=f"random weights of true widths instead: {', '.join(SHAPES)}",
    )
    parser.add_argument(
        "--layers", type=int, metavar="N", help="with --shape: decoder layers (default: all)"
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="with --shape: keep the random model there, and take it from there the next time",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        metavar=("PEER", "FILE"),
        help="generate (that of transformers); llama.cpp MODEL.gguf [MMPROJ.gguf]; or the folder "
        "of another checkout of this package",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(FIGURES),
        metavar="FIGURE",
        help=f"any of {', '.join(FIGURES)} (default: all)",
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="rounds that count (default: 3)"
    )
    parser.add_argument(
        "--warmup", type=int, default=1, metavar="N", help="rounds before them (default: 1)"
    )
    parser.add_argument(
        "--streams", type=int, default=16, metavar="N", help="answers at once (default: 16)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of both sides (default: those of torch)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_model_options(parser, flag=False)


def run(args: argparse.Namespace) -> int:
    for name, least in (
        ("layers", 1),
        ("repeat", 1),
        ("warmup", 0),
        ("streams", 1),
        ("threads", 1),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} is {value}; it must be at least {least}.")
    if args.shape is not None and args.model is not None:
        raise UsageError(f"MODEL {args.model!r} and --shape {args.shape}: name one of them.")
    for name in ("layers", "folder"):
        if args.shape is None and getattr(args, name) is not None:
            raise UsageError(f"--{name} has no effect without --shape.")
    if args.layers is not None and args.layers > SHAPES[args.shape]["num_hidden_layers"]:
        most = SHAPES[args.shape]["num_hidden_layers"]
        raise UsageError(f"--layers is {args.layers}; the decoder of {args.shape} has {most}.")
    _check_peer(args.against)
    with imports():
        from minicpmv.bench.report import as_text
        from minicpmv.bench.session import Settings, bench

    model = "nano" if args.model is None and args.shape is None else args.model
    settings = Settings(
        model=model,
        shape=args.shape,
        layers=args.layers,
        folder=None if args.folder is None else Path(args.folder),
        options=load_options(args),
        names=args.only,
        peer=_peer(args.against),
        repeat=args.repeat,
        warmup=args.warmup,
        streams=args.streams,
        threads=args.threads,
    )
    data = bench(settings, _progress)
    print(json.dumps(data, ensure_ascii=False) if args.json else as_text(data))
    return 0


def _check_peer(words: list[str] | None) -> None:
    """Refuse what cannot be meant, before anything is loaded."""
    if words is None:
        return
    kind, *files = words
    if kind == "llama.cpp" and not 1 <= len(files) <= 2:
        raise UsageError(
            f"--against llama.cpp is followed by {len(files)} files; give MODEL.gguf, and "
            "MMPROJ.gguf for pictures."
        )
    if kind != "llama.cpp" and files:
        raise UsageError(
            f"--against {kind} takes no further word, found {files[0]!r}. Write MODEL before it."
        )
    if kind not in ("generate", "llama.cpp") and not Path(kind).is_dir():
        raise UsageError(
            f"--against is {kind!r}; expected generate, llama.cpp, or the folder of a checkout."
        )
    for file in files:
        if not Path(file).is_file():
            raise OSError(f"--against llama.cpp: there is no file {file!r}.")


def _peer(words: list[str] | None) -> "Peer | None":
    from minicpmv.bench.session import Peer

    if words is None:
        return None
    kind, *files = words
    if kind in ("generate", "llama.cpp"):
        return Peer(kind, tuple(map(Path, files)))
    return Peer("checkout", (Path(kind),))


def _progress(line: str) -> None:
    print(f"minicpmv bench: {line}", file=sys.stderr, flush=True)
