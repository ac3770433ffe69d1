"""`minicpmv train`: one subcommand per training method."""

import argparse

from minicpmv.train.options import add_flags, read_options
from minicpmv.train.pretrain.options import PretrainOptions

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


def run_pretrain(args: argparse.Namespace) -> int:
    try:
        options = read_options(PretrainOptions, args)
        options.check()
    except ValueError as error:
        raise UsageError(str(error)) from error
    from minicpmv.train.pretrain.run import run  # torch, only when training begins

    run(options)
    return 0


def run(args: argparse.Namespace) -> int:
    return args.run_method(args)
