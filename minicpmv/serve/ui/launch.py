"""Starts the page, and beside it a server where none is named; both end together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...child_servers import end, wait_until_ready
from ..tls import check_pair

# Where a server stands for others; the one started here answers the page alone.
_OF_OTHERS = {"MINICPMV_ROOT_PATH", "MINICPMV_SSL_CERTFILE", "MINICPMV_SSL_KEYFILE"}
START_S = 1800.0  # a large model is read from a slow disk, or fetched
# How the small page, a process of its own, is told whom it asks and where it keeps files.
STREAMLIT_BASE_URL = "MINICPMV_UI_BASE_URL"
STREAMLIT_API_KEY = "MINICPMV_UI_API_KEY"
STREAMLIT_UPLOADS = "MINICPMV_UI_UPLOADS"
STOP_S = 35.0  # longer than the grace that the server gives to answers


@dataclass(frozen=True)
class PageSettings:
    """Where the page stands and whom it asks.

    Fields:
        base_url: of a running server; None starts one for `models` on `server_port`.
        api_key: that the server asks for; a server started here asks for it, too.
        server_flags: further words for `minicpmv serve`.
    """

    models: tuple[str, ...] = ("nano",)
    host: str = "127.0.0.1"
    port: int = 7860
    base_url: str | None = None
    server_port: int = 8000
    api_key: str | None = None
    server_flags: tuple[str, ...] = ()
    root_path: str = ""
    opens: bool = False
    max_file_mb: int = 64
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    @property
    def address(self) -> str:
        """What a person types to see the page."""
        host = "localhost" if self.host in ("", "0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http{'s' if self.ssl_certfile else ''}://{shown}:{self.port}"

    @property
    def server_url(self) -> str:
        return self.base_url or f"http://127.0.0.1:{self.server_port}"


@contextmanager
def uploads_folder() -> Iterator[Path]:
    """A folder that other users of the computer cannot read, and that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="minicpmv-ui-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def check_port(host: str, port: int, flag: str, advice: str = "") -> None:
    """Raise OSError where something listens at a port that is to be ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"{flag} {port} cannot be used: {(error.strerror or str(error)).lower()}. "
                f"{advice}Choose another with {flag}."
            ) from error


@contextmanager
def server_process(settings: PageSettings) -> "Iterator[subprocess.Popen[bytes] | None]":
    """Inside, a server answers at `settings.server_url`; one started here is given, and ends with
    the block.

    Raises:
        OSError: the port is taken, or the server ended before it was ready.
    """
    if settings.base_url is not None:
        yield None
        return
    advice = f"If a server runs there, use it: --base-url {settings.server_url}. "
    check_port("127.0.0.1", settings.server_port, "--server-port", advice)
    environment = {name: text for name, text in os.environ.items() if name not in _OF_OTHERS}
    if settings.api_key:
        environment["MINICPMV_API_KEY"] = settings.api_key  # not for everyone to read in `ps`
    process = subprocess.Popen(_command(settings), env=environment)
    try:
        _wait(process, f"{settings.server_url}/health")
        yield process
    finally:
        end(process, STOP_S)


def _command(settings: PageSettings) -> list[str]:
    return [
        *(sys.executable, "-m", "minicpmv", "serve", *settings.models),
        *("--host", "127.0.0.1", "--port", str(settings.server_port)),
        *settings.server_flags,
    ]


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    """Return once the server says that it is healthy."""
    if wait_until_ready(process, url, START_S):
        return
    code = process.poll()
    if code is not None:
        raise OSError(f"The server ended with exit code {code} before it was ready; see above.")
    raise OSError(f"The server was not ready after {START_S:.0f} s. Look at its output above.")


class Terminated(KeyboardInterrupt):
    """`kill` leaves by the same way as Ctrl-C, on which what was started here is ended; but to be
    told to stop is no failure."""


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def run_page(settings: PageSettings) -> None:
    """Serve the page until it is interrupted.

    Raises:
        OSError: a port is taken, or the server does not start.
        ValueError: the address of the server is no address.
    """
    signal.signal(signal.SIGTERM, _terminate)
    check_pair(settings.ssl_certfile, settings.ssl_keyfile)
    check_port(settings.host, settings.port, "--port")
    import uvicorn

    from .client import Client
    from .page import make_app

    client = Client(settings.server_url, settings.api_key)
    with (
        suppress(Terminated),
        server_process(settings) as process,
        uploads_folder() as folder,
    ):
        app = make_app(
            client, folder, root_path=settings.root_path, max_file_mb=settings.max_file_mb
        )
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_level="warning",
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
            timeout_graceful_shutdown=2,
        )
        page = _page_server(config, settings)
        if process is not None:
            threading.Thread(target=_end_together, args=(process, page), daemon=True).start()
        page.run()
        if process is not None and process.poll() is not None:
            raise OSError(f"The server ended with exit code {process.returncode}; see above.")


def _page_server(config: Any, settings: PageSettings) -> Any:
    """A server of uvicorn that says where it is once it listens."""
    import uvicorn

    class PageServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _tell(f"page at {settings.address} (Ctrl-C ends it)")
                if settings.opens:
                    webbrowser.open(settings.address)

    return PageServer(config)


def _end_together(process: "subprocess.Popen[bytes]", page: Any) -> None:
    """End the page when the server has ended: it could answer nothing any more."""
    process.wait()
    page.should_exit = True


def run_streamlit(settings: PageSettings) -> int:
    """The small page of Streamlit, in a process of its own; return its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    check_pair(settings.ssl_certfile, settings.ssl_keyfile)
    check_port(settings.host, settings.port, "--port")
    words = _streamlit_command(settings)
    with server_process(settings), uploads_folder() as folder:
        environment = {
            **os.environ,
            STREAMLIT_BASE_URL: settings.server_url,
            STREAMLIT_API_KEY: settings.api_key or "",
            STREAMLIT_UPLOADS: str(folder),
        }
        _tell(f"page at {settings.address} (Ctrl-C ends it)")
        process = subprocess.Popen(words, env=environment)
        try:
            return process.wait()
        except Terminated:
            return 0
        except KeyboardInterrupt:
            return 130
        finally:
            end(process, STOP_S)


def _streamlit_command(settings: PageSettings) -> list[str]:
    page = Path(__file__).with_name("streamlit_page.py")
    words = [
        *(sys.executable, "-m", "streamlit", "run", str(page)),
        *("--server.address", settings.host, "--server.port", str(settings.port)),
        *("--server.headless", "true" if not settings.opens else "false"),
        *("--server.maxUploadSize", str(settings.max_file_mb)),
        *("--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none"),
        *("--client.toolbarMode", "minimal"),
    ]
    if settings.ssl_certfile is not None and settings.ssl_keyfile is not None:
        words += ["--server.sslCertFile", settings.ssl_certfile]
        words += ["--server.sslKeyFile", settings.ssl_keyfile]
    if settings.root_path:
        words += ["--server.baseUrlPath", settings.root_path]
    return words


def _tell(text: str) -> None:
    print(f"minicpmv ui: {text}", file=sys.stderr, flush=True)
