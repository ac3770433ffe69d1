"""`minicpmv data`: look at training data before it is trained on, and write it in other formats."""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minicpmv.progress import bar

from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.data.encode import EncodeSettings
    from minicpmv.data.faults import Fault
    from minicpmv.data.files import Rows
    from minicpmv.data.report import Report

DESCRIPTION = "Look at training data before it is trained on, and write it in other formats."
CHECK = """\
Read every row, open its pictures, and encode it as training does: how many turns, slices and
tokens there are, which share is trained, and each fault with its row and field. Nothing is trained
or written. Exit code 1 where there are faults.
"""
CHECK_EPILOG = """\
examples:
  minicpmv data check rows.json -m openbmb/MiniCPM-V-2_6
  minicpmv data check rows.jsonl --show 3
  minicpmv data check dataset_info.json::demo --max-length 4096 --json
"""
CONVERT = """\
Write rows in another format: a JSON list, JSON lines or parquet, by the end of OUT. Every row is
read back before it counts; what the other format cannot say is a fault, and then nothing is
written.
"""
CONVERT_EPILOG = """\
examples:
  minicpmv data convert rows.json rows.jsonl --to swift
  minicpmv data convert rows.parquet preferences.jsonl --to trl
"""
_MOST_FAULTS = 20
_MAX_LENGTH = 2048


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser("data", description=DESCRIPTION)
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="what would be trained, and what is wrong with it",
        usage="minicpmv data check [options] FILE",
        description=CHECK,
        epilog=CHECK_EPILOG,
    )
    _add_reading(check)
    check.add_argument(
        "-m",
        "--model",
        default="nano",
        help="folder, name on the hub, folder of an adapter, or nano (the default)",
    )
    check.add_argument("--revision", help="branch, tag or commit on the hub")
    add = check.add_argument
    add("--max-length", type=int, default=_MAX_LENGTH, metavar="N",
        help=f"most tokens of a row; 0: any number (default: {_MAX_LENGTH})")  # fmt: skip
    add("--cut-long", action="store_true", help="cut longer rows, instead of faults")
    add("--max-slice-nums", type=int, metavar="N", help="most slices of a picture")
    add("--num-frames", type=int, metavar="N", help="frames of a video")
    add("--fps", type=float, metavar="X", help="frames per second of a video")
    add("--allow-urls", action="store_true", help="open pictures at http and https addresses")
    add("--show", type=int, metavar="N", action="append",
        help="print row N, from 0, token by token, trained ones marked; repeatable")  # fmt: skip
    add("--limit-faults", type=int, default=_MOST_FAULTS, metavar="N",
        help=f"faults to print (default: {_MOST_FAULTS})")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object, with all faults")
    check.set_defaults(run_action=run_check)
    convert = actions.add_parser(
        "convert",
        help="write rows in another format",
        usage="minicpmv data convert [options] --to FORMAT IN OUT",
        description=CONVERT,
        epilog=CONVERT_EPILOG,
    )
    _add_reading(convert, name="IN")
    convert.add_argument("out", metavar="OUT", help="file to write: .json, .jsonl or .parquet")
    convert.add_argument("--to", required=True, metavar="FORMAT", help="the format to write")
    convert.add_argument("--overwrite", action="store_true", help="replace OUT")
    convert.set_defaults(run_action=run_convert)


def _add_reading(parser: argparse.ArgumentParser, name: str = "FILE") -> None:
    parser.add_argument(
        "file",
        metavar=name,
        help="JSON, JSON lines, parquet, a folder that datasets saved, or a dataset_info.json of "
        "LLaMA-Factory (FILE::NAME)",
    )
    parser.add_argument("--format", help="of the rows (default: told from the first ones)")
    parser.add_argument(
        "--image-folder",
        metavar="DIR",
        help="where relative paths of pictures begin (default: the folder of the file)",
    )
    parser.add_argument("--split", help="of a folder with several")


def run(args: argparse.Namespace) -> int | None:
    result: int | None = args.run_action(args)
    return result


def run_check(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from minicpmv.data.files import open_rows
    from minicpmv.data.prepared import prepare
    from minicpmv.media.policy import MediaPolicy, use_policy

    rows = open_rows(
        args.file, format=args.format, image_folder=args.image_folder, split=args.split
    )
    processor = _processor(args.model, args.revision)
    schemes = ("file", "data", "http", "https") if args.allow_urls else ("file", "data")
    with use_policy(MediaPolicy(schemes=schemes)):
        if args.show:
            return _show(rows, processor, settings, args.show)
        faults = _FaultLines(0 if args.json else args.limit_faults)
        with bar(unit=" rows") as show:
            _, report = prepare(
                rows, processor, settings, None, on_progress=show, on_fault=faults.tell
            )
    if args.json:
        about = {"file": str(args.file), "format": rows.format, "model": args.model}
        print(json.dumps(about | report.as_dict(), ensure_ascii=False))
    else:
        faults.close(report)
        print(f"{args.file}: {rows.format}, for {args.model}\n{report.as_text()}")
    return 1 if report.num_faults else 0


def _settings(args: argparse.Namespace) -> "EncodeSettings":
    for flag, least in (
        ("max_length", 0),
        ("max_slice_nums", 1),
        ("num_frames", 1),
        ("limit_faults", 0),
    ):
        value = getattr(args, flag)
        if value is not None and value < least:
            raise UsageError(f"--{flag.replace('_', '-')} is {value}; it must be at least {least}.")
    if args.fps is not None and not 0 < args.fps < math.inf:
        raise UsageError(f"--fps is {args.fps}; it must be above 0.")
    if args.fps is not None and args.num_frames is not None:
        raise UsageError("--num-frames and --fps both choose frames; give one of them.")
    if args.cut_long and not args.max_length:
        raise UsageError("--cut-long has no effect with --max-length 0.")
    if args.show and args.json:
        raise UsageError("--show prints a table; leave out --json.")
    for number in args.show or ():
        if number < 0:
            raise UsageError(f"--show is {number}; rows are counted from 0.")
    from minicpmv.data.encode import EncodeSettings

    return EncodeSettings(
        max_length=args.max_length or None,
        cut=args.cut_long,
        max_slice_nums=args.max_slice_nums,
        num_frames=args.num_frames,
        fps=args.fps,
    )


def _processor(name: str, revision: str | None) -> Any:
    """The processor of a model, or of the one that an adapter was trained on, with its cut of
    pictures. No weights are read.
    """
    from minicpmv.adapters.base import adapter_base, naming_adapter
    from minicpmv.adapters.folder import AdapterFiles, is_adapter
    from minicpmv.adapters.settings import check_processor, other_pictures
    from minicpmv.checkpoint.hub import Checkpoint
    from minicpmv.loader import load_processor, read_config, readable_errors

    settings: Mapping[str, Any] = {}
    adapter, of_adapter = name, None
    if is_adapter(name):
        of_adapter = name
        settings = AdapterFiles.find(name).settings
        name, revision = adapter_base(name, revision)
    with naming_adapter(of_adapter):
        checkpoint = Checkpoint.find(name, revision=revision)
    with readable_errors(checkpoint):
        processor: Any = load_processor(checkpoint, read_config(checkpoint))
    check_processor(settings, processor, adapter)
    for key, value in other_pictures(settings, processor).items():
        setattr(processor.image_processor, key, value)
    return processor


def _show(rows: "Rows", processor: Any, settings: "EncodeSettings", numbers: list[int]) -> int:
    """The tables of some rows; 1 where one has a fault."""
    from minicpmv.data.encode import encode_conversation, encode_preference
    from minicpmv.data.faults import DataError, Fault
    from minicpmv.data.messages import Preference
    from minicpmv.data.pictures import PictureReader
    from minicpmv.data.show import shown_example

    reader = PictureReader()
    faults: list[Fault] = []
    for number in numbers:
        try:
            row = rows.row(number)
        except IndexError:
            raise UsageError(
                f"--show is {number}; {rows.path.name} has {rows.count()} rows, counted from 0."
            ) from None
        try:
            if isinstance(row, Fault):
                raise DataError([row])
            if isinstance(row, Preference):
                examples = list(encode_preference(processor, row, settings, reader))
            else:
                examples = encode_conversation(processor, row, settings, reader)
        except DataError as error:
            faults += error.faults
            continue
        names = ("chosen, ", "rejected, ") if isinstance(row, Preference) else ("",) * len(examples)
        for name, example in zip(names, examples, strict=True):
            print(f"{name}{shown_example(processor, example)}\n")
    for fault in faults:
        print(f"minicpmv: {fault}", file=sys.stderr)
    return 1 if faults else 0


class _FaultLines:
    """Faults on stderr while they are found: the first `most`, and how many more there are."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def tell(self, fault: "Fault") -> None:
        if self._left:
            self._left -= 1
            from tqdm import tqdm

            tqdm.write(str(fault), file=sys.stderr)

    def close(self, report: "Report") -> None:
        more = report.num_faults - self._most
        if more > 0:
            print(f"... and {more} more faults; --json lists all", file=sys.stderr)


def run_convert(args: argparse.Namespace) -> None:
    from minicpmv.data.convert import convert

    with bar(unit=" rows") as show:
        converted = convert(
            args.file,
            args.out,
            args.to,
            format=args.format,
            image_folder=args.image_folder,
            split=args.split,
            overwrite=args.overwrite,
            on_progress=lambda done: show(done, None),
        )
    others = f", and {len(converted.others)} other files" if converted.others else ""
    print(
        f"{converted.out}: {converted.num_rows} rows, {converted.source_format} to "
        f"{converted.format}{others}"
    )
