"""`minicpmv ask --choices`: how likely each of several answers is."""

import argparse
import csv
import json
import sys
from typing import TYPE_CHECKING, Any

from minicpmv.errors import short

from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.chat import Chat
    from minicpmv.decisions.decision import Decision

_LITTLE_MASS = 0.01
_FLAGS = ("choices", "kind", "list_choices", "average_orders", "calibration")


def add_decision_options(parser: argparse.ArgumentParser) -> None:
    """What makes the answer a decision."""
    group = parser.add_argument_group("decision", "Probabilities of given answers, none is drawn.")

    def add(flag: str, **options: Any) -> None:
        group.add_argument(flag, default=argparse.SUPPRESS, **options)

    add(
        "--choices",
        metavar="A,B,C",
        action="append",
        help="print the probability of each; one with a comma stands in quotes: 'a,\"b, c\"'",
    )
    add(
        "--kind",
        choices=("choice", "yesno", "score"),
        help="yesno needs no --choices; score takes them as levels, the lowest first",
    )
    add("--list-choices", action="store_true", help="write the choices below the question")
    add(
        "--average-orders",
        choices=("cyclic", "all"),
        help="ask with the listed choices in several orders, and take the mean",
    )
    add("--calibration", metavar="FILE", help="of minicpmv calibrate")


def is_decision(args: argparse.Namespace) -> bool:
    return any(hasattr(args, name) for name in _FLAGS)


def decision_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `Chat.decide` that were given on the command line."""
    found = {name: getattr(args, name) for name in _FLAGS if hasattr(args, name)}
    if "choices" in found:
        found["choices"] = [text for words in found["choices"] for text in _split(words)]
    elif found.get("kind") != "yesno":
        given = next(iter(found)).replace("_", "-")
        raise UsageError(f"--{given} is for decisions: add --choices A,B,C, or --kind yesno.")
    return found


def _split(words: str) -> list[str]:
    try:
        rows = list(csv.reader([words], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UsageError(
            f"--choices is {short(words)}, which cannot be taken apart ({error}). Put choices with "
            """commas, quotes or lines in double quotes, as in 'red,"blue, or green"'."""
        ) from error
    return [text for row in rows for text in row] or [""]


def print_decision(chat: "Chat", decision: "Decision", *, as_json: bool) -> None:
    """One line for each choice, the likeliest first; or one JSON object."""
    if as_json:
        print(json.dumps(_report(chat, decision), ensure_ascii=False))
        return
    if decision.mass < _LITTLE_MASS:
        print(
            f"minicpmv: the model would answer otherwise: all choices together have a probability "
            f"of {decision.mass:.2g}",
            file=sys.stderr,
        )
    ranked = sorted(decision.probabilities.items(), key=lambda pair: -pair[1])
    width = max(len(label) for label, _ in ranked)
    for label, probability in ranked:
        print(f"{label:<{width}}  {probability:.4f}")
    if decision.kind == "score":
        print(f"{'score':<{width}}  {decision.score:.4f}")


def _report(chat: "Chat", decision: "Decision") -> dict[str, Any]:
    report: dict[str, Any] = {
        "choice": decision.choice,
        "confidence": decision.confidence,
        "probabilities": dict(decision.probabilities),
    }
    if decision.kind == "score":
        report["score"] = decision.score
    return report | {
        "mass": decision.mass,
        "entropy": decision.entropy,
        "calibrated": decision.is_calibrated,
        "model": chat.name,
        "num_orders": decision.num_orders,
        "num_input_tokens": decision.num_input_tokens,
        "num_scored_tokens": decision.num_scored_tokens,
    }
