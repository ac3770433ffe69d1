"""`minicpmv export`: a model for other programs, as GGUF files or for Ollama."""

import argparse
import sys

from .usage import UsageError

DESCRIPTION = """\
Write a model for llama.cpp and the programs built on it.

Nothing else is needed: no compiler, no other program. A quantised file has the bytes that
llama-quantize writes. A run that was stopped goes on where it was.
"""

GGUF = """\
Write NAME-TYPE.gguf with the language model, and mmproj-NAME-TYPE.gguf with the vision side. NAME
is the folder's, or the repository's. MODEL may be a fine-tuned checkpoint or a folder with an
adapter. What llama.cpp does otherwise than the model is told on stderr; docs/export.md says more.

TYPE is F16, BF16, F32, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, Q3_K_L,
Q3_K_M, Q3_K_S, Q2_K, IQ4_NL or IQ4_XS.
"""

GGUF_EPILOG = """\
examples:
  minicpmv export gguf openbmb/MiniCPM-V-2_6 gguf --type Q4_K_M
  minicpmv export gguf runs/receipts gguf --type Q4_K_M,Q8_0 --mmproj Q8_0
  minicpmv export gguf nano gguf --type all
"""

OLLAMA = """\
Write the GGUF files and a Modelfile: chat template, parameters of the release, licence. OUT is then
given to Ollama: cd OUT && ollama create NAME.
"""

OLLAMA_EPILOG = """\
examples:
  minicpmv export ollama openbmb/MiniCPM-V-2_6 minicpm-v-2.6 --type Q4_K_M
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "export", usage="minicpmv export FORMAT [options] MODEL OUT", description=DESCRIPTION
    )
    formats = parser.add_subparsers(title="formats", dest="format", metavar="FORMAT", required=True)
    gguf = formats.add_parser(
        "gguf",
        help="GGUF files",
        usage="minicpmv export gguf [options] MODEL OUT",
        description=GGUF,
        epilog=GGUF_EPILOG,
    )
    ollama = formats.add_parser(
        "ollama",
        help="GGUF files and a Modelfile",
        usage="minicpmv export ollama [options] MODEL OUT",
        description=OLLAMA,
        epilog=OLLAMA_EPILOG,
    )
    for inner in (gguf, ollama):
        inner.add_argument("model", metavar="MODEL", help="folder, name on the hub, or nano")
        inner.add_argument("out", metavar="OUT", help="folder to write into")
    gguf.add_argument(
        "--type",
        type=_types,
        default=["Q4_K_M"],
        metavar="T[,T...]",
        help="size of the language model; all writes all but F32 (default: Q4_K_M)",
    )
    ollama.add_argument(
        "--type", type=_types, default=["Q4_K_M"], metavar="T", help="size (default: Q4_K_M)"
    )
    for inner in (gguf, ollama):
        _add_shared(inner)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mmproj",
        choices=("F16", "BF16", "Q8_0", "F32", "none"),
        type=_mmproj,
        default="F16",
        help="size of the vision side (default: F16)",
    )
    parser.add_argument(
        "--imatrix", metavar="FILE", help="importance matrix, from minicpmv imatrix or llama.cpp"
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="fine-tuned adapter to put in")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--through",
        choices=("F16", "BF16", "F32"),
        type=str.upper,
        help="what quantised weights are made from: rounded to this first, as llama-quantize does "
        "that reads such a file (default: F16, and F16 and BF16 files from the checkpoint itself)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def _types(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _mmproj(text: str) -> str:
    return "none" if text.lower() == "none" else text.upper()


def run(args: argparse.Namespace) -> None:
    if not args.out:
        raise UsageError("OUT is empty; name the folder to write.")
    options = {
        "mmproj": None if args.mmproj == "none" else args.mmproj,
        "imatrix": args.imatrix,
        "adapter": args.adapter,
        "revision": args.revision,
        "through": args.through,
        "overwrite": args.overwrite,
        "progress": True,
    }
    if args.format == "ollama":
        from minicpmv.export.ollama import export_ollama

        if len(args.type) != 1:
            raise UsageError(f"--type has {len(args.type)} values; a Modelfile is for one.")
        written = export_ollama(args.model, args.out, args.type[0], **options)
    else:
        from minicpmv.export.gguf.run import export

        written = export(args.model, args.out, args.type, **options)
    for path in written.files:
        state = ", was whole" if path in written.kept else ""
        print(f"{path}: {_in_units(path.stat().st_size)}{state}")
    if written.modelfile is not None:
        print(f"{written.modelfile}: cd {written.modelfile.parent} && ollama create NAME")
    for note in written.notes:
        print(f"minicpmv: note: {note}", file=sys.stderr)


def _in_units(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
