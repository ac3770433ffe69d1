"""The command line: one file per command, imported only when that command is called.

`minicpmv --help` therefore loads neither torch nor transformers. The answer of a command goes to
stdout and everything else to stderr. What goes wrong is one line and exit code 1 (2 when the
command was typed wrongly, 130 after Ctrl-C); `--traceback` shows the rest.
"""

import argparse
import difflib
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Never, TextIO

from minicpmv import __version__
from minicpmv.errors import ArgumentError, MarkedError

from .usage import UsageError, with_command

COMMANDS = {
    "ask": "answer one question about pictures and videos",
    "chat": "hold a conversation about pictures in the terminal",
    "serve": "answer requests over HTTP, as OpenAI's API does",
    "ui": "open a page to talk about pictures, video, documents and a camera",
    "batch": "answer many requests from a file or a folder, and keep every result",
    "slice": "show how a picture is cut and how many tokens it costs",
    "info": "shapes, parameters, special tokens, and whether the files of a model agree",
    "convert": "convert a MiniCPM text model to the Llama format, and back",
    "quantize": "pack the weights of a model in 4 or 8 bits, for a folder that starts at once",
    "export": "write a model as GGUF files for llama.cpp, or for Ollama",
    "imatrix": "measure which columns of a model matter, for small GGUF files",
    "merge": "put a fine-tuned adapter into the weights of its model",
    "data": "check training data row by row, or write it in another format",
    "train": "train a model",
    "evaluate": "run a benchmark on a model",
    "calibrate": "make the probabilities of decisions right, by labelled examples",
    "verify": "compare a model between configurations, stage by stage",
    "bench": "measure how fast a model runs here",
}
MAX_LISTED = 8  # known words in a message about a wrong one


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Text of several lines stays as it is; one long line is wrapped."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text.strip():
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no abbreviated flags."""

    def __init__(self, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(**options)  # type: ignore[arg-type]

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """A wrong word is named with the closest known one, or with all where they are few."""
        if action.choices is None or value in action.choices:
            return
        words = [str(word) for word in action.choices]
        close = difflib.get_close_matches(str(value), words, n=1)
        known = f"known: {', '.join(words)}" if len(words) <= MAX_LISTED else ""
        meant = f"did you mean {close[0]!r}?" if close else known
        message = f"unknown word {value!r}" + (f"; {meant}" if meant else "")
        raise argparse.ArgumentError(action, message)

    def error(self, message: str) -> Never:
        self.exit(2, f"{self.prog}: error: {message} ('{self.prog} --help' shows what there is)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is `sys.argv[1:]` when left out."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _quiet_libraries()
    args = argparse.Namespace(traceback=False)
    try:
        _check_words(arguments)
        module = parse(arguments, args)
        code = module.run(args) if module else 0
        sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has seen enough (`minicpmv info | head`); what is buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a C program that dies of SIGPIPE
    except UsageError as error:
        return _report(str(error), args.traceback, code=2)
    except MarkedError as error:
        code = 2 if isinstance(error, ArgumentError) else 1
        return _report(error.as_flags(), args.traceback, code=code)
    except (ValueError, OSError, ImportError) as error:
        message = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"
        return _report(message, args.traceback)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return _report(f"unexpected {message}", args.traceback, hint=" (--traceback shows where)")


def _check_words(arguments: Sequence[str]) -> None:
    """Words that are not text cannot be put before a model; names of files may be any bytes."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            if not os.path.exists(word):
                shown = os.fsencode(word).decode("utf-8", errors="replace")
                raise UsageError(f"{shown!r} is not UTF-8 text. Type it in UTF-8.") from None


def parse(arguments: Sequence[str], args: argparse.Namespace) -> ModuleType | None:
    """Read a command line into `args`; return the module of its command.

    Without a command the help is printed, and None returned. A wrong command line ends the program.
    """
    parser = CommandParser(
        prog="minicpmv", description="The MiniCPM-V family of vision-language models."
    )
    parser.add_argument("--version", action="version", version=f"minicpmv {__version__}")
    _add_traceback(parser)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    # The options before the command take no value, so the first word is the command.
    place = next((i for i, word in enumerate(arguments) if not word.startswith("-")), None)
    if place is None:
        _add_summaries(commands, COMMANDS)
        parser.parse_args(arguments, args)
        parser.print_help()
        return None

    name = arguments[place]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(COMMANDS)}."
        parser.error(f"unknown command {name!r}.{meant}")
    _add_summaries(commands, [other for other in COMMANDS if other != name])
    module = importlib.import_module(f"{__name__}.{name}")
    module.add_parser(commands)
    parser.parse_args(arguments[:place], args)
    command: CommandParser = commands.choices[name]
    _add_traceback(command)
    _parse_command(command, arguments[place + 1 :], args)
    return module


def _add_summaries(commands: "argparse._SubParsersAction", names: Sequence[str] | dict) -> None:
    for name in names:
        commands.add_parser(name, help=COMMANDS[name])


def _add_traceback(parser: argparse.ArgumentParser) -> None:
    """Add the flag to a parser and to those of its own subcommands."""
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where an error arose",
    )
    for inner in _inner_parsers(parser):
        _add_traceback(inner)


def _chosen_parser(
    parser: argparse.ArgumentParser, words: Sequence[str]
) -> argparse.ArgumentParser:
    """The parser of the subcommand that a command line names, or the one itself."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    found = (a.choices[word] for a in actions for word in words if word in a.choices)
    return next(found, parser)


def _inner_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    actions = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return [inner for action in actions for inner in action.choices.values()]


def _parse_command(parser: CommandParser, words: Sequence[str], args: argparse.Namespace) -> None:
    """Parse a command's own words; flags may stand between files, and a misspelt flag is named."""
    inner = _inner_parsers(parser)
    parse = parser.parse_known_args if inner else parser.parse_known_intermixed_args
    _, unknown = parse(words, args)
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0])
        chosen = _chosen_parser(parser, words)
        flags = list(chosen._option_string_actions)
        close = difflib.get_close_matches(flag, flags, n=1)
        meant = f". Did you mean {close[0]}?" if close else ""
        chosen.error(f"unknown argument {flag}{meant}")


def _quiet_libraries() -> None:
    """Our own warnings are one line on stderr; those of libraries are for their authors."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # It says when it is imported that a product of its own has no faster form here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=r"minicpmv(\.|$)")
        warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"minicpmv: warning: {_one_line(str(message))}", file=file or sys.stderr)


def _report(message: str, show_traceback: bool, hint: str = "", code: int = 1) -> int:
    if show_traceback:
        traceback.print_exc()
    print(f"minicpmv: error: {_one_line(message)}{'' if show_traceback else hint}", file=sys.stderr)
    return code


def _one_line(message: str) -> str:
    """A message on one line, without advice that only Python can follow."""
    return " ".join(with_command(message).split())
