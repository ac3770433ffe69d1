"""`minicpmv convert`: MiniCPM's language models in the layout of Llama or Mixtral, and back."""

import argparse
import math

from minicpmv.progress import bar

from .options import add_output_options
from .usage import UsageError

DESCRIPTION = """\
Write a MiniCPM text model in the layout of Llama, for programs that know Llama and not MiniCPM, or
bring such a model back. A model with experts gets the layout of Mixtral.

MiniCPM scales embeddings, branches and logits; the layout of Llama has these factors in its
weights. Weights keep their dtype; OUT appears only when it is whole.
"""

EPILOG = """\
examples:
  minicpmv convert openbmb/MiniCPM-2B-sft-bf16 minicpm-2b-llama --to llama
  minicpmv convert openbmb/MiniCPM-V-2 language-model --to llama
  minicpmv convert minicpm-2b-llama minicpm-2b --to minicpm
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "convert",
        usage="minicpmv convert [options] --to LAYOUT MODEL OUT",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="folder or name on the hub: a MiniCPM text model, MiniCPM-V 1.0 or 2.0 (its language "
        "model is taken), or one of the other layouts",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--to",
        choices=("llama", "mixtral", "minicpm"),
        required=True,
        help="layout to write; llama means mixtral when the model has experts",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    add_output_options(parser, "about as much memory is needed")
    scalings = parser.add_argument_group(
        "scalings",
        "With --to minicpm. Default: what MODEL was converted with; else those of the releases.",
    )
    scalings.add_argument("--scale-emb", type=float, metavar="X", help="released: 12")
    scalings.add_argument("--scale-depth", type=float, metavar="X", help="released: 1.4")
    scalings.add_argument("--dim-model-base", type=int, metavar="N", help="released: 256")


def run(args: argparse.Namespace) -> None:
    if not args.out:
        raise UsageError("OUT is empty; name the folder to write.")
    for flag in ("scale_emb", "scale_depth", "dim_model_base"):
        value = getattr(args, flag)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(
                f"--{flag.replace('_', '-')} is {value}; it must be greater than 0, and finite."
            )
    from minicpmv.export.convert import convert

    with bar("tensors") as show:
        converted = convert(
            args.model,
            args.out,
            args.to,
            scale_emb=args.scale_emb,
            scale_depth=args.scale_depth,
            dim_model_base=args.dim_model_base,
            revision=args.revision,
            overwrite=args.overwrite,
            max_shard_size=args.max_shard_size,
            on_progress=show,
        )
    head = "tied head" if converted.is_tied else "untied head"
    files = "file" if converted.num_files == 1 else "files"
    print(
        f"{converted.folder}: {converted.architecture}, {head}, "
        f"{converted.num_bytes / 1e9:.2f} GB in {converted.num_files} {files}"
    )
