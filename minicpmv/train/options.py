"""Options of a training as a dataclass: flags, a configuration file and checks from one table.

    @dataclass
    class Options:
        batch: int = option(1, "rows per step", least=1)

Imports neither torch nor transformers, so that `--help` answers at once.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from minicpmv.errors import ArgumentError, listed, meant

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    choices: Collection[str] = (),
    check: Callable[[str], str] | None = None,
    aliases: Collection[str] = (),
    shown: str | None = None,
) -> Any:
    """A field of a dataclass of options.

    Args:
        help: text of the flag.
        least, above: bounds of a number.
        choices: the words that are known.
        check: what is wrong with a text, as the end of a sentence, or "" when it is fine.
        aliases: other names of the flag, those of the released scripts; not in the help.
        shown: the default in the help, where the value does not say it.
    """
    rules = {
        "help": help,
        "least": least,
        "above": above,
        "choices": choices,
        "check": check,
        "aliases": tuple(aliases),
        "shown": shown,
    }
    return dataclasses.field(default=default, metadata=rules)


_METAVARS = {int: "N", float: "X", str: "TEXT"}


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _truth(text: str) -> bool:
    """The value after a switch, `--lora true`, as the released scripts have it."""
    if text.lower() not in _TRUTHS:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return _TRUTHS[text.lower()]


def add_flags(parser: argparse.ArgumentParser, options_class: type) -> None:
    """One flag per field, and `--config` for a file of them.

    Every flag is known with underscores too, and by the aliases of its field.
    """
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="JSON file with options, named as the flags with underscores",
    )
    for field in dataclasses.fields(options_class):
        text = field.metadata["help"]
        shown = field.metadata["shown"]
        if shown is None:
            shown = field.default
        if shown != "":
            text += f" (default: {shown})"
        settings: dict[str, Any] = {"default": argparse.SUPPRESS}
        names, others = [flag_of(field.name)], [field.name, *field.metadata["aliases"]]
        hidden = [f"--{name}" for name in others if f"--{name}" not in names]
        if field.type is bool:
            off = [f"--no-{name[2:]}" for name in (*names, *hidden)]
            if shown is True:
                text = f"{field.metadata['help']} (default; off: {off[0]})"
            settings |= {"type": _truth, "nargs": "?", "const": True, "metavar": "true|false"}
            parser.add_argument(
                *off,
                dest=field.name,
                action="store_false",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
        else:
            kind: Any = field.type
            settings |= {"type": kind, "metavar": _METAVARS[kind]}
        parser.add_argument(*names, help=text, **settings)
        if hidden:
            parser.add_argument(*hidden, dest=field.name, **settings | {"help": argparse.SUPPRESS})


def read_options(options_class: type[T], args: argparse.Namespace) -> T:
    """The options of a parsed command line: defaults, then the file, then the flags; checked.

    Raises:
        ValueError: a value of another type or out of its range, or an unknown name in the file; the
            message names the flag, or the file and the field.
    """
    names = [field.name for field in dataclasses.fields(options_class)]  # type: ignore[arg-type]
    values = _read_file(args.config, names) if args.config else {}
    for name, value in values.items():
        _check_value(_field(options_class, name), value, f"{name} in {args.config}")
    values |= {name: value for name, value in vars(args).items() if name in names}
    options = options_class(**values)
    vars(options)["_given"] = frozenset(values)
    check_options(options)
    return options


def given(options: Any) -> frozenset[str]:
    """Names of the options that were given; of those made in Python, that differ from defaults."""
    names: frozenset[str] | None = vars(options).get("_given")
    if names is not None:
        return names
    return frozenset(
        field.name
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    )


def check_options(options: Any, needed: Sequence[str] = ()) -> None:
    """Raise ValueError unless every option has its type and lies in its range, and those that are
    `needed` are there.
    """
    for field in dataclasses.fields(options):
        _check_value(field, getattr(options, field.name), flag_of(field.name))
    for name in needed:
        if not getattr(options, name):
            raise ArgumentError(f"`{name}` is missing.")


def _read_file(path: str, names: Collection[str]) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--config {path} is not a JSON file: {error}.") from None
    if not isinstance(values, dict):
        raise ValueError(f'--config {path} holds no JSON object; expected {{"batch": 4, ...}}.')
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(
            f"{path} has unknown options: {listed(unknown)}.{meant(unknown[0], names, '--help')}"
        )
    return values


def _field(options_class: type, name: str) -> "dataclasses.Field[Any]":
    return next(field for field in dataclasses.fields(options_class) if field.name == name)


def _check_value(field: "dataclasses.Field[Any]", value: Any, place: str) -> None:
    rules = field.metadata
    kinds: dict[Any, Any] = {float: int | float, int: int, str: str, bool: bool}
    is_flag = isinstance(value, bool)
    if not isinstance(value, kinds[field.type]) or is_flag != (field.type is bool):
        wanted: dict[Any, str] = {float: "a number", int: "a whole number", str: "text"}
        raise ValueError(
            f"{place} is {value!r}; it must be {wanted.get(field.type, 'true or false')}."
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}; it must be a finite number.")
    if rules["least"] is not None and value < rules["least"]:
        raise ValueError(f"{place} is {value}; it must be at least {rules['least']}.")
    if rules["above"] is not None and value <= rules["above"]:
        raise ValueError(f"{place} is {value}; it must be above {rules['above']}.")
    if rules["choices"] and value not in rules["choices"]:
        known = ", ".join(word for word in rules["choices"] if word)
        raise ValueError(f"{place} is {value!r}; it is one of {known}.")
    problem = rules["check"](value) if rules["check"] else ""
    if problem:
        raise ValueError(f"{place} is {value!r}; {problem}.")
