"""`minicpmv evaluate`: one subcommand per measure."""

import argparse

DESCRIPTION = "Measure a model. The table goes to stdout, everything else to stderr."


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    from minicpmv.evaluate import scenes

    parser = subparsers.add_parser("evaluate", description=DESCRIPTION)
    measures = parser.add_subparsers(
        title="measures", dest="measure", metavar="MEASURE", required=True
    )
    measure = measures.add_parser(
        "scenes",
        help="questions about rendered scenes",
        description=(
            "Ask a model about rendered scenes that the default model has not seen in training: "
            "other seeds, other words, other typefaces."
        ),
    )
    scenes.add_arguments(measure)
    measure.set_defaults(run_measure=scenes.run)


def run(args: argparse.Namespace) -> int:
    return args.run_measure(args)
