"""`minicpmv train`: one subcommand per way of training."""

import argparse

from minicpmv.train.options import add_flags, read_options
from minicpmv.train.pretrain.options import PretrainOptions

DESCRIPTION = "Train a model."


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser("train", description=DESCRIPTION)
    ways = parser.add_subparsers(title="ways", dest="way", metavar="WAY", required=True)
    way = ways.add_parser(
        "pretrain",
        help="the default model, from random weights on rendered scenes",
        description=(
            "Train the default model from random weights on rendered scenes. A run that was "
            "interrupted goes on where it was: give the same command again."
        ),
    )
    add_flags(way, PretrainOptions)
    way.set_defaults(run_way=run_pretrain)


def run_pretrain(args: argparse.Namespace) -> int:
    options = read_options(PretrainOptions, args)
    options.check()
    from minicpmv.train.pretrain.run import run  # torch, only when training begins

    run(options)
    return 0


def run(args: argparse.Namespace) -> int:
    return args.run_way(args)
