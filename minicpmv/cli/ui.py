"""`minicpmv ui`: a page to talk about pictures, and the server behind it."""

import argparse
import importlib
import os
import re
import sys
from dataclasses import fields
from ipaddress import ip_address
from typing import Any

from .usage import UsageError

DESCRIPTION = """\
Open a page on which people talk about pictures, videos, documents and a camera.

The page asks a server over HTTP and loads no model. Without --base-url a server is started for
MODEL and ends with the page; its further settings may stand in the environment (MINICPMV_*) or in
the YAML file of --config, as for 'minicpmv serve'.
"""

EPILOG = """\
examples:
  minicpmv ui
  minicpmv ui openbmb/MiniCPM-V-2_6 --quantize int4 --open
  minicpmv ui --base-url http://127.0.0.1:8000
  minicpmv ui --host 0.0.0.0 --ssl-certfile page.crt --ssl-keyfile page.key
"""

# Words of the server that the page hands on; they mean nothing where no server is started.
_SERVER_FLAGS = ("device", "dtype", "quantize", "memory_budget", "config")


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    from minicpmv.serve.settings import ROWS

    parser = subparsers.add_parser(
        "ui",
        usage="minicpmv ui [options] [MODEL ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    page = parser.add_argument_group("page")
    page.add_argument(
        "--host", metavar="ADDRESS", help="to listen on (default: 127.0.0.1)", **given
    )
    page.add_argument("--port", type=int, metavar="N", help="to listen on (default: 7860)", **given)
    page.add_argument("--root-path", metavar="PATH", help="under which a proxy shows it", **given)
    page.add_argument("--ssl-certfile", metavar="FILE", help="certificate, for https", **given)
    page.add_argument("--ssl-keyfile", metavar="FILE", help="key of the certificate", **given)
    page.add_argument(
        "--max-file-mb",
        type=int,
        metavar="N",
        help="megabytes of one file that is attached (default: 64)",
        **given,
    )
    page.add_argument("--open", action="store_true", help="open it in the browser")
    page.add_argument(
        "--streamlit", action="store_true", help="the small page of Streamlit, in place of this one"
    )
    server = parser.add_argument_group("server")
    server.add_argument("models", metavar="MODEL", nargs="*", help=ROWS["model"].help)
    server.add_argument("--base-url", metavar="URL", help="ask this running server", **given)
    server.add_argument(
        "--api-key",
        metavar="KEY",
        help="that the server asks for (default: $MINICPMV_API_KEY)",
        **given,
    )
    server.add_argument(
        "--server-port",
        type=int,
        metavar="N",
        help="of the server that is started (default: 8000)",
        **given,
    )
    for name in _SERVER_FLAGS:
        text = ROWS[name].help if name in ROWS else "a YAML file with settings of the server"
        server.add_argument(f"--{name.replace('_', '-')}", metavar=name.upper(), help=text, **given)


def run(args: argparse.Namespace) -> int:
    from minicpmv.serve.ui.launch import PageSettings, run_page, run_streamlit

    names = [field.name for field in fields(PageSettings)]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if "api_key" not in given:
        given["api_key"] = _key_of_environment()
    given["models"] = tuple(args.models) or PageSettings.models
    given["opens"] = args.open
    given["server_flags"] = _server_flags(args)
    settings = PageSettings(**given)
    _check(settings, args)
    _warn_of_strangers(settings.host)
    _check_packages("streamlit" if args.streamlit else "ui")
    if args.streamlit:
        return run_streamlit(settings)
    run_page(settings)
    return 0


def _check_packages(extra: str) -> None:
    """A part of gradio is looked for, since a folder stays behind where it is uninstalled."""
    for module in {"streamlit": ["streamlit"], "ui": ["gradio.blocks", "uvicorn"]}[extra]:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            package = (error.name or module).partition(".")[0]
            raise ImportError(
                f"The page needs {package}: pip install 'minicpmv[serve,{extra}]'"
            ) from error


def _key_of_environment() -> str | None:
    """The first of those that the server reads; any will do."""
    keys = re.split(r"[,\s]+", os.environ.get("MINICPMV_API_KEY", "").strip())
    return keys[0] or None


def _server_flags(args: argparse.Namespace) -> tuple[str, ...]:
    found: list[str] = []
    for name in _SERVER_FLAGS:
        if hasattr(args, name):
            found += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return tuple(found)


def _check(settings: Any, args: argparse.Namespace) -> None:
    for name in ("port", "server_port"):
        value = getattr(settings, name)
        if not 1 <= value <= 65535:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be from 1 to 65535.")
    if settings.max_file_mb < 1:
        raise UsageError(f"--max-file-mb is {settings.max_file_mb}; it must be at least 1.")
    if (settings.ssl_certfile is None) != (settings.ssl_keyfile is None):
        raise UsageError("--ssl-certfile and --ssl-keyfile belong together; give both.")
    if settings.root_path and not settings.root_path.startswith("/"):
        raise UsageError(f"--root-path is {settings.root_path!r}; it must begin with a /.")
    if settings.base_url is None:
        if settings.port == settings.server_port:
            raise UsageError(f"--port and --server-port are both {settings.port}; change one.")
        return
    idle = [f"--{name.replace('_', '-')}" for name in ("server_port",) if hasattr(args, name)]
    idle += [word for word in settings.server_flags if word.startswith("--")]
    idle += [f"MODEL {args.models[0]!r}"] if args.models else []
    if idle:
        raise UsageError(
            f"{idle[0]} has no effect beside --base-url, whose server runs already; remove one."
        )


def _warn_of_strangers(host: str) -> None:
    try:
        is_local = ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local:
        print(
            f"minicpmv: warning: whoever reaches {host} can use the page; put a proxy that asks "
            "for a password before it.",
            file=sys.stderr,
        )
