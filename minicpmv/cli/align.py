"""`minicpmv train preferences` and `minicpmv train dpo`."""

import argparse
from typing import Any

from minicpmv.errors import ArgumentError
from minicpmv.train.dpo.options import DpoOptions
from minicpmv.train.flags import add_released_flags
from minicpmv.train.options import add_flags, read_options
from minicpmv.train.preferences.options import PreferenceOptions

from .usage import UsageError


def add_methods(methods: Any) -> None:
    """Add both to the subcommands of `minicpmv train`."""
    method = methods.add_parser(
        "preferences",
        help="pairs of answers for dpo, from a model's own samples",
        description=(
            "Draw several answers to each question of a file, split them into claims, have each "
            "claim judged, and write pairs of a better and a worse answer, as in RLAIF-V. A run "
            "that was interrupted continues when the same command is given again."
        ),
    )
    method.add_argument(
        "data",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="DATA",
        help="file of rows whose questions are asked; the same as --data",
    )
    add_flags(method, PreferenceOptions)
    method.set_defaults(run_method=run_preferences)

    method = methods.add_parser(
        "dpo",
        help="a model on pairs of better and worse answers",
        description=(
            "Train a model on pairs of answers (DPO, or DDPO with more weight on what was "
            "corrected), whole or by adapters. The pairs are checked first. A run that was "
            "interrupted continues when the same command is given again."
        ),
    )
    add_flags(method, DpoOptions)
    add_released_flags(method)
    method.set_defaults(run_method=run_dpo)


def _options(options_class: type, args: argparse.Namespace) -> Any:
    try:
        options: Any = read_options(options_class, args)
        options.check()
    except ArgumentError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    return options


def run_preferences(args: argparse.Namespace) -> int:
    options = _options(PreferenceOptions, args)
    from minicpmv.train.preferences.run import run  # torch, only when it begins

    run(options)
    return 0


def run_dpo(args: argparse.Namespace) -> int:
    options = _options(DpoOptions, args)
    from minicpmv.train.dpo.run import run  # torch, only when training begins

    run(options)
    return 0
