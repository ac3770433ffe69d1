"""`minicpmv batch`: many requests from a file or a folder of pictures, one result for each."""

import argparse
import json
import math
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from minicpmv.progress import bar, drawn

from .startup import imports, server_packages
from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.batch.command import Place
    from minicpmv.batch.rows import Source

DESCRIPTION = """\
Answer every row of IN and write one result for each to OUT, in the same order: a file of OpenAI's
batch form, or a folder of pictures with one prompt. Rows that fail are results, too.

Results stand in OUT.part as they come. After any end, the same command goes on from there.
"""

EPILOG = """\
examples:
  minicpmv batch requests.jsonl results.jsonl
  minicpmv batch photos/ results.jsonl --prompt "What is written here?" --max-tokens 64
  minicpmv batch requests.jsonl results.jsonl -m openbmb/MiniCPM-V-2_6 --quantize int4
  minicpmv batch requests.jsonl results.jsonl --base-url http://10.0.0.2:8000 http://10.0.0.3:8000
  minicpmv batch requests.jsonl results.jsonl --ray auto --workers 16 --gpus-per-worker 1
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    parser = subparsers.add_parser(
        "batch",
        usage="minicpmv batch [options] IN OUT",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("source", metavar="IN", help="lines of requests, or a folder of pictures")
    add("out", metavar="OUT", help="file of results to write (.jsonl)")
    add("--overwrite", action="store_true", help="replace OUT")
    add("--retry-failed", action="store_true", help="ask the rows again that have failed")
    add("--media-folder", metavar="DIR",
        help="where relative paths of pictures begin (default: the folder of IN)")  # fmt: skip
    pictures = parser.add_argument_group("a folder of pictures")
    pictures.add_argument("--prompt", metavar="TEXT", help="what is asked about each picture")
    pictures.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    pictures.add_argument(
        "--fields", metavar="JSON", help="""more fields of each request, as '{"temperature": 0}'"""
    )
    model = parser.add_argument_group("the model")
    add = model.add_argument
    add("-m", "--model", metavar="MODEL", help="folder, name on the hub, or nano (the default)")
    add("--served-model-name", metavar="NAME", nargs="+", help="what rows call it")
    add("--device", help="cpu, cuda, cuda:1, mps or auto (the default)")
    add("--dtype", help="float32, bfloat16, float16 or auto (the default)")
    add("--quantize", choices=("int4", "int8", "nf4", "llm.int8"),
        help="keep weights in 4 or 8 bits")  # fmt: skip
    add("--max-num-seqs", type=int, metavar="N", help="rows answered at a time by a worker")
    where = parser.add_argument_group("where it is computed (by default on this machine)")
    add = where.add_argument
    add("--workers", type=int, metavar="N",
        help="processes of this machine (default: one for each GPU, or for each core where the "
        "model is small and rows are many), or of the cluster (default: 1)")  # fmt: skip
    add(
        "--ray",
        metavar="ADDRESS",
        help="a Ray cluster; auto: that of this machine, local: a new one",
    )
    add("--cpus-per-worker", type=float, metavar="X", help="on the cluster (default: 1)")
    add("--gpus-per-worker", type=float, metavar="X", help="on the cluster (default: 0)")
    add("--base-url", metavar="URL", nargs="+", help="running servers, ours or others'")
    add("--api-key", metavar="KEY", help="of the servers (default: $MINICPMV_API_KEY)")
    add("--concurrency", type=int, metavar="N", help="rows at a time per server (default: 32)")
    add("--answer-timeout", type=float, metavar="S",
        help="seconds that a server may take for one row (default: 600)")  # fmt: skip
    add("--patience", type=float, default=300.0, metavar="S",
        help="seconds without any worker after which the batch stops (default: 300)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    _check(args)
    with imports(), server_packages("A batch"):
        from minicpmv.batch.command import run_batch

    # `kill` leaves as Ctrl-C does, so that workers are ended, too.
    usual = signal.signal(signal.SIGTERM, _as_ctrl_c)
    place = _place(args)
    source = _source(args, place)
    done = total = 0
    try:
        with (
            bar("looking", unit_scale=True) as look,
            drawn("rows", unit="row", smoothing=0.05) as rows,
        ):

            def show(number: int, count: int, failed: int) -> None:
                nonlocal done, total
                if rows.total is None:
                    rows.total, rows.initial, rows.n = count, number, number
                done, total = number, count
                rows.set_postfix(failed=failed, refresh=False)
                rows.update(number - rows.n)

            summary = run_batch(
                source,
                args.out,
                place,
                overwrite=args.overwrite,
                retry_failed=args.retry_failed,
                patience_s=args.patience,
                on_look=look,
                on_progress=show,
            )
    except KeyboardInterrupt:
        if total:
            print(
                f"stopped: {done} of {total} rows are done, in {args.out}.part; the same command "
                "goes on from there",
                file=sys.stderr,
            )
        raise
    finally:
        signal.signal(signal.SIGTERM, usual)  # what comes now can be cut off
    failed = f", {summary.num_failed} failed" if summary.num_failed else ""
    before = f", {summary.num_before} of them from before" if summary.num_before else ""
    print(f"{args.out}: {summary.count} results{failed}{before}")
    return 1 if summary.num_failed else 0


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    """What asyncio does at Ctrl-C: the tasks end in order, not at whatever line they are."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # a shell's script in the background ignores Ctrl-C
        handler = signal.default_int_handler
    handler(number, frame)


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that are out of range, or have no effect beside the others."""
    for name in ("workers", "max_num_seqs", "max_tokens", "concurrency"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
    for name in ("patience", "answer_timeout", "cpus_per_worker", "gpus_per_worker"):
        value = getattr(args, name)
        least = 0 if name == "gpus_per_worker" else math.ulp(0.0)
        if value is not None and not least <= value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; expected a positive number.")
    of_servers = ("api_key", "concurrency", "answer_timeout")
    of_models = ("served_model_name", "device", "dtype", "quantize", "max_num_seqs")
    of_ray = ("cpus_per_worker", "gpus_per_worker")
    if args.base_url:
        _refuse(args, (*of_models, "workers", "ray", *of_ray), "--base-url")
    else:
        _refuse(args, of_servers, None, "--base-url")
    if not args.ray:
        _refuse(args, of_ray, None, "--ray")


def _refuse(
    args: argparse.Namespace, names: tuple[str, ...], beside: str | None, without: str = ""
) -> None:
    for name in names:
        if getattr(args, name) is not None:
            where = f"beside {beside}" if beside else f"without {without}"
            raise UsageError(f"--{name.replace('_', '-')} has no effect {where}; remove it.")


def _source(args: argparse.Namespace, place: "Place") -> "Source":
    from minicpmv.batch.rows import PictureFolder, RequestFile

    path = Path(args.source)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there. Give a file of requests, or a folder.")
    if path.is_dir():
        if args.prompt is None:
            raise UsageError(f"{path} is a folder of pictures: say what is asked with --prompt.")
        _refuse(args, ("media_folder",), "a folder of pictures")
        return PictureFolder(path, args.prompt, _fields(args, _default_model(args, place)))
    for name in ("prompt", "max_tokens", "fields"):
        if getattr(args, name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for a folder of pictures; {path} is none."
            )
    return RequestFile(path, args.media_folder, _default_model(args, place))


def _fields(args: argparse.Namespace, model: str | None) -> dict[str, Any]:
    try:
        fields = json.loads(args.fields or "{}")
    except ValueError as error:
        raise UsageError(f"--fields is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"--fields is {args.fields}; expected an object.")
    if "messages" in fields or "stream" in fields:
        raise UsageError("--fields has messages or stream, which a batch sets itself.")
    if args.max_tokens is not None:
        fields["max_tokens"] = args.max_tokens
    if model is not None:
        fields.setdefault("model", model)
    return fields


def _default_model(args: argparse.Namespace, place: "Place") -> str | None:
    """What rows ask for that name none."""
    from minicpmv.batch.workers import served_model

    if place.base_urls and not args.model:
        return served_model(place.base_urls, place.api_key)
    return (args.served_model_name or [args.model or "nano"])[0]


def _place(args: argparse.Namespace) -> "Place":
    from minicpmv.batch.command import Place
    from minicpmv.batch.workers import ANSWER_S
    from minicpmv.serve.upstream.pool import checked

    if args.base_url:
        urls = tuple(checked(url, "--base-url") for url in args.base_url)
        key = args.api_key or os.environ.get("MINICPMV_API_KEY")
        return Place(
            base_urls=urls,
            api_key=key,
            concurrency=args.concurrency or 32,
            answer_s=args.answer_timeout or ANSWER_S,
        )
    models: dict[str, Any] = {"model": (args.model or "nano",)}
    if args.served_model_name:
        models["served_model_name"] = tuple(args.served_model_name)
    for name in ("device", "dtype", "quantize", "max_num_seqs"):
        if (value := getattr(args, name)) is not None:
            models[name] = value
    return Place(
        models=models,
        workers=args.workers,
        ray=args.ray,
        cpus=args.cpus_per_worker or 1.0,
        gpus=args.gpus_per_worker or 0.0,
    )
