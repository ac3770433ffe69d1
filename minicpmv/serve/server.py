"""`minicpmv serve`: the application in uvicorn, from the open port to the graceful end."""

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Generator
from http import HTTPStatus
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ..errors import first_line
from .access_log import LineWriter, LogHandler, logger
from .app import Server, create_app
from .errors import ApiError
from .memory import keep_freed_memory, limit_primitives
from .middleware import SILENCE_S
from .settings import ServeSettings
from .tls import check_pair

_KEEP_ALIVE_S = 75  # longer than proxies and clients keep a connection, so that they close it
_CLOSING_S = 5
_SAME_SIGNAL_S = 0.3  # what a process and its group are told comes twice
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOCAL = ("127.0.0.1", "::1", "localhost")


def run(settings: ServeSettings) -> int:
    """Serve until a signal tells to stop.

    The first signal lets running answers end, up to `grace` seconds; a second one ends at once.

    Returns:
        the exit code.

    Raises:
        OSError: the port cannot be had, or a file cannot be read.
        ValueError: a setting or a model is wrong.
    """
    limit_primitives()
    keep_freed_memory()
    check_pair(settings.ssl_certfile, settings.ssl_keyfile)
    folder = settings.allowed_local_media_path
    if folder is not None and not os.path.isdir(folder):
        raise OSError(f"--allowed-local-media-path is {folder!r}; there is no such folder.")
    sockets = bind(settings.host, settings.port)
    try:
        app = create_app(settings)
        _set_up_logging(app.state.server.log.lines, settings.log_format)
        if is_open_to_all(settings):
            logger.warning(
                "warning: %s can be reached from other machines, and without --api-key anybody "
                "there may use this server",
                settings.host,
            )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",  # here, so that an error of a model stays one line
            ws="none",
            http=_Protocol,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSING_S,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )
        server = _Uvicorn(config, app.state.server)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(app, server, sockets))
        app.state.server.log.lines.flush()
    finally:
        for each in sockets:
            each.close()
    return 0


def is_open_to_all(settings: ServeSettings) -> bool:
    """Whether other machines may ask, without a key."""
    return settings.host not in _LOCAL and not settings.api_key


async def _serve(app: FastAPI, server: "_Uvicorn", sockets: list[socket.socket]) -> None:
    async with app.router.lifespan_context(app):
        # What is there now stays. To look through it for garbage took a third of a second, in which
        # every answer waited.
        gc.collect()
        gc.freeze()
        try:
            await server.serve(sockets)
        except OSError as error:
            raise _of_port(error, *sockets[0].getsockname()[:2]) from error


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's own, with the one body of errors for what is no HTTP, and a limit to its patience.

    uvicorn closes a connection that rests between two requests; one that sends nothing, or half of
    a head, it keeps for ever.
    """

    _patience: asyncio.TimerHandle | None = None
    _has_part = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._has_part = self._is_idle()
        if self._has_part:
            self._wait()
        else:
            self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _wait(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(SILENCE_S, self._close_if_idle)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _close_if_idle(self) -> None:
        self._patience = None
        if not self._is_idle() or self.transport.is_closing():
            return
        if self._has_part:
            message = f"The head of the request was not complete after {SILENCE_S:g} s."
            self._send(ApiError(408, "timeout", message))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        # Either nothing is being answered, or the body of what is turns out to be no HTTP.
        if self._is_idle() or (cycle.more_body and not cycle.response_started):
            message = "This is no request of HTTP/1.1, or its head is too large."
            self._send(ApiError(400, "invalid_http", message))
        self.transport.close()

    def _send(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: clients offer HTTP/2 with every request, and are answered by HTTP/1.1."""


class _Uvicorn(uvicorn.Server):
    """uvicorn that answers 503 while running answers end, and leaves with 0 after a signal."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server
        self._stop: asyncio.Task[None] | None = None
        self._told_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        settings = self._server.settings
        scheme = "https" if settings.ssl_certfile else "http"
        host, port = (sockets or [])[0].getsockname()[:2]
        host = settings.host if settings.host else host
        host = f"[{host}]" if ":" in host else host
        path = settings.root_path.rstrip("/")
        logger.info("serving %s at %s://%s:%d%s/v1", settings.shown, scheme, host, port, path)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._loop = asyncio.get_running_loop()
        before = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._told, sig)

    def _told(self, sig: int) -> None:
        if self._stop is not None:
            if time.monotonic() - self._told_at < _SAME_SIGNAL_S:
                return
            logger.warning("ending at once")
            self._server.log.lines.flush()
            os._exit(128 + sig)
        self._told_at = time.monotonic()
        self._stop = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        server = self._server
        if server.num_requests:
            grace = server.settings.grace
            logger.info("stopping: %d requests have %g s to end", server.num_requests, grace)
        await server.drain(server.settings.grace)
        self.should_exit = True


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets of an address, which do not listen yet.

    Raises:
        OSError: the address is not of this machine, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(
            f"--host is {host!r}, which is no address of this machine ({first_line(error)})."
        ) from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        each = socket.socket(family, kind, protocol)
        sockets.append(each)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port == 0 and len(sockets) > 1:  # one port for all addresses of the name
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            each.bind(address)
        except OSError as error:
            for other in sockets:
                other.close()
            raise _of_port(error, host, port) from error
    return sockets


def _of_port(error: OSError, host: str, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        return OSError(
            f"Port {port} of {host} is in use. Choose another with --port, or stop what uses it."
        )
    if error.errno == errno.EACCES:
        return OSError(f"Port {port} needs more rights than we have. Choose one above 1023.")
    reason = error.strerror or first_line(error)
    return OSError(f"{host}:{port} cannot be listened on ({reason}). See --host and --port.")


def _set_up_logging(lines: LineWriter, form: str) -> None:
    """What is no request goes to stderr too, in the same form."""
    handler = LogHandler(lines, form)
    for name, level in (("minicpmv.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        each = logging.getLogger(name)
        each.handlers, each.propagate = [handler], False
        each.setLevel(level)
