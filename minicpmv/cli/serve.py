"""`minicpmv serve`: a server for every client that speaks to OpenAI."""

import argparse
from typing import TYPE_CHECKING, Any

from .startup import imports, server_packages
from .usage import UsageError

if TYPE_CHECKING:
    from minicpmv.serve.settings_table import Setting

DESCRIPTION = """\
Answer requests over HTTP as OpenAI's API does, with pictures and videos: /v1/chat/completions,
/v1/completions, /v1/responses, /v1/models, and those of Anthropic and Ollama.

Every flag may also stand in the environment (--max-queue as MINICPMV_MAX_QUEUE) or in the YAML file
of --config (max-queue: 100). A flag wins over the environment, and that over the file.
"""

EPILOG = """\
examples:
  minicpmv serve
  minicpmv serve openbmb/MiniCPM-V-2_6 --quantize int4 --port 9000
  minicpmv serve ./MiniCPM-V-2_6 nano --served-model-name 2.6 small
  MINICPMV_API_KEY=secret minicpmv serve --host 0.0.0.0
  minicpmv serve --config server.yaml
"""

_REPEATED = ("api_key", "cors_origin")
_OTHERS = "operation"
GROUPS = {
    "models": ("served_model_name", "mmproj", "device", "dtype", "quantize", "memory_budget"),
    "address": (
        *("host", "port", "root_path", "ssl_certfile", "ssl_keyfile"),
        *("api_key", "open_metrics", "cors_origin"),
    ),
    "limits": (
        *("max_num_seqs", "max_queue", "max_tokens", "timeout", "grace", "keep_alive"),
        *("max_body", "max_images", "max_pixels"),
        *("max_video_mb", "max_video_seconds", "max_frames"),
    ),
    "pictures by address": (*("media_urls", "allowed_media_domains", "allowed_local_media_path"),),
    _OTHERS: (),
}


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    from minicpmv.serve.settings import ROWS, flag_of

    parser = subparsers.add_parser(
        "serve",
        usage="minicpmv serve [options] [MODEL ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help=ROWS["model"].help)
    parser.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        action="append",
        default=argparse.SUPPRESS,
        help="the same, as a flag",
    )
    parser.add_argument("--config", metavar="FILE", help="a YAML file with settings")
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name, row in ROWS.items():
        if name != "model":
            title = next((title for title, names in GROUPS.items() if name in names), _OTHERS)
            _add(groups[title], name, flag_of(name), row)


def _add(group: "argparse._ArgumentGroup", name: str, flag: str, row: "Setting") -> None:
    from minicpmv.serve.settings import ServeSettings
    from minicpmv.serve.settings_table import default_of

    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    default = default_of(ServeSettings, name)
    is_told = default not in (None, (), "", "auto") and not isinstance(default, bool)
    options["help"] = f"{row.help} (default: {row.written(default)})" if is_told else row.help
    if row.kind == "switch":
        options["action"] = "store_false" if row.off else "store_true"
    elif row.kind == "list":
        options["metavar"] = row.metavar or "HOST"
        options |= {"action": "append"} if name in _REPEATED else {"nargs": "+", "action": "extend"}
    else:
        kinds = {"whole": "N", "size": "SIZE", "number": "X", "text": "TEXT", "path": "FILE"}
        options["metavar"] = "|".join(row.choices) or row.metavar or kinds[row.kind]
    group.add_argument(flag, **options)


def run(args: argparse.Namespace) -> int:
    from minicpmv.serve.settings import ROWS, read_settings

    flags = {name: getattr(args, name) for name in ROWS if hasattr(args, name)}
    if args.models and "model" in flags:
        raise UsageError(
            f"MODEL {args.models[0]!r} and --model {flags['model'][0]}: name all in one way."
        )
    if args.models:
        flags["model"] = args.models
    settings = read_settings(flags, config=args.config)
    with imports(), server_packages("The server"):
        from minicpmv.serve.server import run as serve
    return serve(settings)
