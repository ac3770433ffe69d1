"""`minicpmv train`: one subcommand per way of training."""

import argparse

DESCRIPTION = "Train a model."


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    from minicpmv.train.pretrain import run as pretrain

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
    pretrain.add_arguments(way)
    way.set_defaults(run_way=pretrain.run)


def run(args: argparse.Namespace) -> int:
    return args.run_way(args)
