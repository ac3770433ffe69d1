"""Flags that several commands share, named as the Python arguments with dashes.

A flag that was not given is not passed on, so the release's own default holds.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from minicpmv.engine.options import OPTIONS

from .startup import imports

if TYPE_CHECKING:
    from minicpmv.chat import Chat


# Flags of a video stand in `attachments.py`, where its frames are chosen.
ANSWER_OPTIONS = {
    name: option for name, option in OPTIONS.items() if option.has_flag and option.needs != "video"
}


_NEEDS = {
    "sampling": "with --sampling",
    "beams": "with --num-beams above 1",
    "one beam": "without beams",
}


def add_model_options(parser: argparse.ArgumentParser, *, flag: bool = True) -> None:
    """Which model, and how it is loaded: the arguments of `minicpmv.load`.

    `flag=False` leaves `--model` out, for commands that take it by its place.
    """
    group = parser.add_argument_group("model")
    if flag:
        group.add_argument(
            "-m",
            "--model",
            action=_NameModel,
            default="nano",
            help="folder, name on the hub, GGUF file, or nano (the default)",
        )
        parser.set_defaults(names_model=False)
    add = _optional(group)
    add("--adapter", metavar="DIR", help="a fine-tuned adapter for the model")
    add("--mmproj", metavar="FILE", help="of a GGUF file, the one with its vision side")
    add("--device", help="cpu, cuda, cuda:1, mps or auto (the default)")
    add("--dtype", help="float32, bfloat16, float16 or auto (the default)")
    add("--device-map", metavar="MAP", help="spread the weights over devices: auto, balanced ...")
    add(
        "--quantize",
        choices=["int4", "int8", "nf4", "llm.int8"],
        help="keep weights in 4 or 8 bits; the last two with bitsandbytes",
    )
    add("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2 ...")
    add("--revision", help="branch, tag or commit on the hub")
    add("--compat", choices=["released"], help="reproduce the quirks in docs/differences.md")


class _NameModel(argparse.Action):
    """Remembers that a model was named, whichever it is."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        namespace.model, namespace.names_model = values, True


def tell_default_model(args: argparse.Namespace) -> None:
    """Say on stderr which model answers, where none was named."""
    if not args.names_model:
        print(
            "minicpmv: using nano, a small bundled demo model that knows only drawn pictures; "
            "choose another with -m, such as -m openbmb/MiniCPM-V-2_6",
            file=sys.stderr,
        )


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """How the answer is made: the options of `Chat.ask`."""
    group = parser.add_argument_group("answer", "Left out, the defaults of the release hold.")
    add = _optional(group)
    for option in ANSWER_OPTIONS.values():
        needs = f"; {_NEEDS[option.needs]}" if option.needs in _NEEDS else ""
        text = option.help + needs
        if option.kind is bool:
            add(option.flag, action=argparse.BooleanOptionalAction, help=text)
        elif option.kind is tuple:
            add(option.flag, action="append", metavar="TEXT", help=f"{text}; may be repeated")
        else:
            metavar = "N" if option.kind is int else "X"
            add(option.flag, type=option.kind, metavar=metavar, help=text)


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords for `minicpmv.load` that were given on the command line."""
    names = (
        "adapter",
        "mmproj",
        "device",
        "dtype",
        "device_map",
        "quantize",
        "attn_implementation",
        "revision",
        "compat",
    )
    return _given(args, names)


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords for `Chat.ask` that were given on the command line."""
    return _given(args, ANSWER_OPTIONS)


def _optional(group: argparse._ArgumentGroup) -> Any:
    """`add_argument` whose value is absent from the namespace until the flag is given."""

    def add(*flags: str, **options: Any) -> None:
        group.add_argument(*flags, default=argparse.SUPPRESS, **options)

    return add


def _given(args: argparse.Namespace, names: Any) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def load_chat(args: argparse.Namespace) -> "Chat":
    """Load the model the flags ask for; a progress bar is shown on a terminal only."""
    with imports():
        from minicpmv.loader import load

        chat = load(args.model, progress=sys.stderr.isatty(), **load_options(args))
    name_precision(chat)
    chat.system = args.system
    return chat


def name_precision(chat: "Chat") -> None:
    """Say on a terminal in which dtype the model is computed, where it is not the checkpoint's."""
    if sys.stderr.isatty() and chat.precision is not None and chat.precision.departs:
        print(f"minicpmv: computing in {chat.precision}", file=sys.stderr)


def add_output_options(parser: argparse.ArgumentParser, note: str = "") -> None:
    """How a model is written to the folder OUT.

    Args:
        note: on the size of its files.
    """
    parser.add_argument("--overwrite", action="store_true", help="replace the model in OUT")
    parser.add_argument(
        "--max-shard-size",
        type=_size,
        default="2GB",
        metavar="SIZE",
        help=f"most bytes of a weight file{note and f'; {note}'} (default: 2GB)",
    )


def _size(text: str) -> int:
    from minicpmv.checkpoint.files import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
