"""Flags that several commands share, named as the Python arguments with dashes.

A flag that was not given is not passed on, so the release's own default holds.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicpmv.chat import Chat


@dataclass(frozen=True)
class GenerationOption:
    """One keyword of `Chat.ask`, as a flag (`--top-p 0.8`) and as `/set top_p 0.8`."""

    name: str
    kind: type
    help: str

    def parse(self, text: str) -> Any:
        """Read a value typed by a person.

        Raises:
            ValueError: the text is not a value of this kind.
        """
        if self.kind is bool:
            values = {"true": True, "yes": True, "on": True, "1": True}
            values |= {"false": False, "no": False, "off": False, "0": False}
            if text.lower() not in values:
                raise ValueError(f"{self.name} is {text!r}; expected on or off.")
            return values[text.lower()]
        try:
            return self.kind(text)
        except ValueError:
            kind = {int: "a whole number", float: "a number"}[self.kind]
            raise ValueError(f"{self.name} is {text!r}; expected {kind}.") from None


GENERATION_OPTIONS = {
    option.name: option
    for option in (
        GenerationOption("sampling", bool, "draw each token at random, or take the likeliest"),
        GenerationOption("temperature", float, "below 1 sharper, above 1 wilder; when sampling"),
        GenerationOption(
            "top_p", float, "draw from the likeliest tokens that sum to this; when sampling"
        ),
        GenerationOption("top_k", int, "draw from this many likeliest tokens; when sampling"),
        GenerationOption("repetition_penalty", float, "above 1 repeats less"),
        GenerationOption("num_beams", int, "above 1, search this wide for the likeliest answer"),
        GenerationOption("max_new_tokens", int, "longest answer, in tokens"),
        GenerationOption("min_new_tokens", int, "shortest answer, in tokens"),
        GenerationOption("seed", int, "the same number draws the same answer"),
        GenerationOption("max_slice_nums", int, "most cells a picture is cut into; 1 does not cut"),
        GenerationOption("use_image_id", bool, "number the pictures in the prompt"),
        GenerationOption("max_inp_length", int, "longest prompt, in tokens"),
    )
}


def add_model_options(parser: argparse.ArgumentParser, *, flag: bool = True) -> None:
    """Which model, and how it is loaded: the arguments of `minicpmv.load`.

    `flag=False` leaves `--model` out, for commands that take it by its place.
    """
    group = parser.add_argument_group("model")
    if flag:
        group.add_argument(
            "-m", "--model", default="nano", help="folder, name on the hub, or nano (the default)"
        )
    add = _optional(group)
    add("--device", help="cpu, cuda, cuda:1, mps or auto (the default)")
    add("--dtype", help="float32, bfloat16, float16 or auto (the default)")
    add("--device-map", metavar="MAP", help="spread the weights over devices: auto, balanced ...")
    add("--quantize", choices=["int4", "int8"], help="keep the decoder layers in 4 or 8 bits")
    add("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2 ...")
    add("--revision", help="branch, tag or commit on the hub")
    add("--compat", choices=["released"], help="reproduce the quirks in docs/differences.md")


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """How the answer is made: the options of `Chat.ask`."""
    group = parser.add_argument_group("answer", "Left out, the defaults of the release hold.")
    add = _optional(group)
    for option in GENERATION_OPTIONS.values():
        flag = "--" + option.name.replace("_", "-")
        if option.kind is bool:
            add(flag, action=argparse.BooleanOptionalAction, help=option.help)
        else:
            add(
                flag, type=option.kind, metavar="N" if option.kind is int else "X", help=option.help
            )


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords for `minicpmv.load` that were given on the command line."""
    names = (
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
    return _given(args, GENERATION_OPTIONS)


def _optional(group: argparse._ArgumentGroup) -> Any:
    """`add_argument` whose value is absent from the namespace until the flag is given."""

    def add(*flags: str, **options: Any) -> None:
        group.add_argument(*flags, default=argparse.SUPPRESS, **options)

    return add


def _given(args: argparse.Namespace, names: Any) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def load_chat(args: argparse.Namespace) -> "Chat":
    """Load the model the flags ask for; a progress bar is shown on a terminal only."""
    from minicpmv.loader import load

    chat = load(args.model, progress=sys.stderr.isatty(), **load_options(args))
    chat.system = args.system
    return chat
