"""What stands before every route: request ids, keys, limits, the access log, the last error.

Pure ASGI: between a route and a function of `@app.middleware("http")` stands a task of its own, and
the route never learns that its client has gone.
"""

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import short
from .access_log import Exchange, logger
from .errors import ApiError, ClientGoneError, error_body
from .posts import Post

if TYPE_CHECKING:
    from .app import Server

Result = TypeVar("Result")

_OPEN = ("/health", "/ping")
_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_RETRY_STOPPING_S = 5
SILENCE_S = 60.0  # of a client that has not sent or read all; it would take the place of others
_DRAIN_S = 10.0  # for the rest of a body that is too large
_DRAIN_BYTES = 256 * 2**20


class Front:
    """The outermost layer but for CORS.

    Args:
        posts: by path, what answers a POST there; everything else is left to `app`.
    """

    def __init__(self, app: ASGIApp, server: "Server", posts: Mapping[str, Post]):
        self.app = app
        self.server = server
        self.posts = posts
        self.keys = [key.encode() for key in server.settings.api_key]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.server.settings.root_path:  # whether or not the proxy leaves it in the path
            scope["root_path"] = self.server.settings.root_path.rstrip("/")
        path = route_path(scope)
        headers = dict(scope["headers"])
        record = Exchange(_request_id(headers), scope["method"], scope["path"])
        state = scope.setdefault("state", {})
        state["record"], state["owner"] = record, _owner(headers)
        has_no_body = scope["method"] == "HEAD"
        if has_no_body:  # the routes know GET; a copy, since the server looks at its own
            scope = {**scope, "method": "GET"}

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                extra = [(b"x-request-id", record.request_id.encode())]
                if path.startswith("/v1/messages"):  # Anthropic's name of it
                    extra.append((b"request-id", record.request_id.encode()))
                if self.server.is_stopping:
                    extra.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            elif has_no_body and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            try:
                await _within(SILENCE_S, self.server.sending, send(message))
            except TimeoutError:
                raise ClientGoneError from None

        body = _Body(receive, self.server)
        with self.server.exchange(record):
            try:
                self._check(record.method, path, headers)
                post = self.posts.get(path) if record.method == "POST" else None
                if post is None:
                    await self.app(scope, body.receive, reply)
                else:
                    request = Request(scope, body.receive)
                    response = await post(request, await request.body())
                    await response(scope, body.receive, reply)
            except (ClientGoneError, ClientDisconnect):  # the latter before it had sent all
                record.status, record.error = 499, "client_gone"
            except ApiError as error:
                if error.status == 413 and b"expect" not in headers:
                    await body.drain()
                await error_response(error, record, path)(scope, receive, reply)
            except Exception:
                failure = internal_error(record)
                if record.status:  # an answer has begun, and is cut off: nobody waits for more
                    record.error = failure.code
                    raise
                await error_response(failure, record, path)(scope, receive, reply)

    def _check(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Refuse what needs no look at the body.

        Raises:
            ApiError: as the contract has it.
        """
        settings = self.server.settings
        is_open = path in _OPEN or (path == "/metrics" and settings.open_metrics)
        if self.keys and not is_open and not self._has_key(headers):
            raise ApiError(
                401,
                "invalid_api_key",
                "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY' or "
                "'x-api-key: KEY'.",
            )
        if method != "POST":
            return
        if self.server.is_stopping:
            raise stopping()
        coding = headers.get(b"content-encoding", b"").strip().lower()
        if coding not in (b"", b"identity"):
            raise ApiError(
                415,
                "unsupported_encoding",
                f"The body is compressed ({short(coding.decode('latin-1'))} as content-encoding); "
                "send it as it is.",
            )
        most = settings.max_num_seqs + settings.max_queue
        if self.server.num_posts > most:
            raise ApiError(
                429,
                "queue_full",
                f"{most} requests are answered or wait, which is the most "
                f"({settings.max_num_seqs} and {settings.max_queue}). Try again later.",
                retry_after=1,
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > settings.max_body:
            raise _too_large(settings.max_body, f"{int(length)} bytes")

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        sent = _keys(headers)
        # All are compared, so that the time says nothing about which one is nearly right.
        same = [hmac.compare_digest(each, key) for each in sent for key in self.keys]
        return any(same)


class _Body:
    """The messages of a request, counted."""

    def __init__(self, receive: Receive, server: "Server"):
        self._receive = receive
        self._server = server
        self._most = server.settings.max_body
        self._count = 0
        self._more = True

    async def receive(self) -> Message:
        if not self._more:
            return await self._receive()  # says when the client goes
        try:
            message = await _within(SILENCE_S, self._server.reading, self._receive())
        except TimeoutError:
            if self._server.is_expired:
                raise stopping() from None
            raise ApiError(
                408, "timeout", f"Nothing of the body came for {SILENCE_S:g} s. Send it again."
            ) from None
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            self._more = message.get("more_body", False)
            if self._count > self._most:
                await self.drain()
                raise _too_large(self._most, f"more than {self._most} bytes")
        return message

    async def drain(self) -> None:
        """Read the rest, once and within limits: many clients read no answer before they have sent
        all.
        """
        end = time.perf_counter() + _DRAIN_S
        while self._more and self._count < self._most + _DRAIN_BYTES:
            try:
                left = end - time.perf_counter()
                message = await _within(left, self._server.reading, self._receive())
            except TimeoutError:
                break
            if message["type"] != "http.request":
                break
            self._count += len(message.get("body", b""))
            self._more = message.get("more_body", False)
        self._more = False


async def _within(seconds: float, waits: set[asyncio.Timeout], action: Awaitable[Result]) -> Result:
    """What comes of it.

    Args:
        waits: of the server, which ends them when it ends.

    Raises:
        TimeoutError: it does not come in time, or before the server ends.
    """
    patience = asyncio.timeout(seconds)
    waits.add(patience)
    try:
        async with patience:
            return await action
    finally:
        waits.discard(patience)


def _too_large(most: int, found: str) -> ApiError:
    return ApiError(
        413,
        "body_too_large",
        f"The body has {found}; the limit is {most} (--max-body). Send smaller pictures.",
    )


def stopping() -> ApiError:
    return ApiError(
        503,
        "unavailable",
        "The server is stopping. Try again later.",
        retry_after=_RETRY_STOPPING_S,
    )


def note_error(error: ApiError, record: Exchange) -> None:
    """Tell the log how a request ended, and of what is our fault the reason."""
    record.error = error.code
    if error.status >= 500 and error.__cause__ is not None:
        logger.error("request %s: %s", record.request_id, error.__cause__)


def internal_error(record: Exchange) -> ApiError:
    """What the client is told of an exception that is being handled; the log gets all of it."""
    logger.exception("request %s failed", record.request_id)
    message = f"Something went wrong in the server; its log has more under {record.request_id}."
    return ApiError(500, "internal_error", message)


def error_response(
    error: ApiError, record: Exchange, path: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """What the client is told, and the log."""
    note_error(error, record)
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error, path), status_code=error.status, headers=headers)


def route_path(scope: Scope) -> str:
    """The path without what a proxy put before it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _keys(headers: dict[bytes, bytes]) -> list[bytes]:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    sent = [token.strip()] if scheme.lower() == b"bearer" else []
    return [*sent, headers.get(b"x-api-key", b"")]


def _owner(headers: dict[bytes, bytes]) -> str:
    """Whose the request is: the key that was sent, whether or not the server asks for one."""
    return next((key.decode("latin-1") for key in _keys(headers) if key), "")


def _request_id(headers: dict[bytes, bytes]) -> str:
    sent = headers.get(b"x-request-id", b"")
    return sent.decode() if _ID.fullmatch(sent) else uuid.uuid4().hex
