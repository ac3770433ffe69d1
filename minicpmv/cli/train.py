"""`minicpmv train`: one subcommand per training method."""

import argparse

from minicpmv.errors import ArgumentError
from minicpmv.train.flags import add_released_flags
from minicpmv.train.options import add_flags, read_options
from minicpmv.train.pretrain.options import PretrainOptions
from minicpmv.train.sft.options import SftOptions

from .align import add_methods
from .usage import UsageError

DESCRIPTION = "Train a model."


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser("train", description=DESCRIPTION)
    methods = parser.add_subparsers(title="methods", dest="method", metavar="METHOD", required=True)
    method = methods.add_parser(
        "pretrain",
        help="a model like nano, from random weights on drawn pictures",
        description=(
            "Train a model like nano from random weights on drawn pictures. A run that was "
            "interrupted continues when the same command is given again."
        ),
    )
    add_flags(method, PretrainOptions)
    method.set_defaults(run_method=run_pretrain)

    method = methods.add_parser(
        "sft",
        help="a model on your own conversations, whole or by adapters",
        description=(
            "Fine-tune a model on conversations with or without pictures, whole, or by low-rank "
            "adapters (--lora, --qlora). The data is checked first. A run that was interrupted "
            "continues when the same command is given again. The flags of the released scripts "
            "are accepted too: --model_name_or_path, --data_path, --tune_vision true ..."
        ),
    )
    add_flags(method, SftOptions)
    add_released_flags(method)
    method.set_defaults(run_method=run_sft)
    add_methods(methods)


def run_pretrain(args: argparse.Namespace) -> int:
    try:
        options = read_options(PretrainOptions, args)
        options.check()
    except ValueError as error:
        raise UsageError(str(error)) from error
    from minicpmv.train.pretrain.run import run  # torch, only when training begins

    run(options)
    return 0


def run_sft(args: argparse.Namespace) -> int:
    try:
        options = read_options(SftOptions, args)
        options.check()
    except ArgumentError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    from minicpmv.train.sft.run import run  # torch, only when training begins

    run(options)
    return 0


def run(args: argparse.Namespace) -> int:
    return args.run_method(args)
