"""The application: routes over a backend, and one body for every error."""

import asyncio
import difflib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from ..version import VERSION
from .access_log import AccessLog, Exchange
from .content import MediaReader
from .errors import ApiError
from .jobs import Backend
from .metrics import Metrics
from .middleware import Front, error_response, route_path
from .openapi import complete
from .own import OwnBackend
from .posts import posts_of
from .routes import (
    chat,
    completions,
    decisions,
    health,
    messages,
    metrics,
    models,
    ollama,
    responses,
    tokens,
)
from .settings import ServeSettings
from .upstream.backend import VllmBackend

if TYPE_CHECKING:
    from .answering import Interruptible

_ROUTES = (
    chat,
    completions,
    tokens,
    decisions,
    responses,
    messages,
    ollama,
    models,
    health,
    metrics,
)
_POLL_S = 0.02  # while the server waits for running requests to end
_LAST_WORDS_S = 2.0


@dataclass
class Server:
    """What all requests share; `request.app.state.server`.

    Fields:
        media: reads pictures and videos under the server's policy.
        is_stopping: nothing new is begun. is_expired: what ran has been told to end, too.
        num_requests, num_posts: that are being answered.
        answering: blocks of these that can be interrupted.
        reading, sending: how long clients are waited for that send or read nothing just now.
    """

    settings: ServeSettings
    backend: Backend
    media: MediaReader
    metrics: Metrics
    log: AccessLog
    is_stopping: bool = False
    is_expired: bool = False
    num_requests: int = 0
    num_posts: int = 0
    answering: "set[Interruptible]" = field(default_factory=set)
    reading: set[asyncio.Timeout] = field(default_factory=set)
    sending: set[asyncio.Timeout] = field(default_factory=set)

    @contextmanager
    def exchange(self, record: Exchange) -> Iterator[None]:
        """Inside, a request is being answered; at the end the metrics and the log learn how."""
        is_post = record.method == "POST"
        self.num_requests += 1
        self.num_posts += is_post
        try:
            yield
        finally:
            self.num_requests -= 1
            self.num_posts -= is_post
            if record.error is not None and not record.is_counted:
                self.metrics.request_error(record.error)
            self.log.write(record)

    async def drain(self, grace_s: float) -> None:
        """Begin nothing new, and wait until what runs has ended; after `grace_s` seconds it ends
        with an error.
        """
        self.is_stopping = True
        end = time.monotonic() + grace_s
        while self.num_requests and time.monotonic() < end:
            await asyncio.sleep(_POLL_S)
        self.is_expired = True
        for each in list(self.answering):
            each.interrupt("stopping")
        _run_out(self.reading)
        # Their last words still have to be sent; a client that reads nothing is not waited for.
        end = time.monotonic() + _LAST_WORDS_S
        while self.num_requests and time.monotonic() < end:
            await asyncio.sleep(_POLL_S)
        _run_out(self.sending)


def _run_out(waits: set[asyncio.Timeout]) -> None:
    """End what clients are waited for, now."""
    for each in list(waits):
        if not each.expired():
            each.reschedule(0.0)


def create_app(
    settings: ServeSettings | None = None,
    backend: Backend | None = None,
    log: AccessLog | None = None,
) -> FastAPI:
    """The application, as any ASGI server runs it.

    Args:
        backend: what computes the answers; by default what `settings.engine` says.
        log: of the requests; by default lines on stderr.

    Raises:
        ArgumentError: a setting is wrong.
    """
    settings = settings or ServeSettings()
    backend = backend or make_backend(settings)
    # What other servers have is known when they answer.
    names = () if settings.engine == "vllm" else settings.names
    counters = Metrics(settings.metrics_prefix, names, backend.stats)
    log = log or AccessLog(settings.log_format)
    server = Server(settings, backend, MediaReader(settings), counters, log)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        try:
            yield
        finally:
            server.media.close()
            await backend.stop()
            log.lines.flush()

    app = FastAPI(
        title="minicpmv",
        version=VERSION,
        description="Models of the MiniCPM-V family behind the protocols that clients speak.",
        lifespan=lifespan,
        docs_url=None,  # its scripts would come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = server
    app.state.posts = posts_of(routers())
    for router in routers():
        app.include_router(router)
    for kind in (ApiError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(Front, server=server, posts=app.state.posts)
    if settings.cors_origin:
        app.add_middleware(
            _Cors,
            allow_origins=list(settings.cors_origin),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.openapi = partial(_document, app, app.openapi)  # type: ignore[method-assign]
    return app


def routers() -> list[APIRouter]:
    """The routes of the application, by module."""
    return [module.router for module in _ROUTES]


class _Cors(CORSMiddleware):
    """Starlette's, with the one body of errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        reason = bytes(response.body).decode()
        error = ApiError(400, "cors_refused", f"{reason}. See --cors-origin of this server.")
        names = ("vary", "access-control-allow-methods", "access-control-max-age")
        headers = {name: response.headers[name] for name in names if name in response.headers}
        return JSONResponse(error.body(), status_code=400, headers=headers)


def _document(app: FastAPI, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document; made once."""
    is_made = app.openapi_schema is not None
    document = make()
    if not is_made:
        cards = app.state.server.backend.models()
        complete(document, routers(), [card.name for card in cards])
    return document


def make_backend(settings: ServeSettings) -> Backend:
    if settings.engine == "vllm":
        return VllmBackend(settings)
    return OwnBackend(settings)


async def _refuse(request: Request, error: Exception) -> Response:
    """The body of the protocol that is spoken at this path."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        error = _of_routing(error, request)
    elif isinstance(error, RequestValidationError):
        found = error.errors()[0]
        name = ".".join(str(part) for part in found["loc"][1:])
        error = ApiError(400, "invalid_value", f"{name}: {found['msg']}.", param=name)
    assert isinstance(error, ApiError)
    return error_response(error, request.state.record, route_path(request.scope), headers)


# What clients of OpenAI and Anthropic ask for, and nobody has to look for here.
_WITHOUT = {
    "/v1/embeddings": "These models answer questions and have no embeddings.",
    **dict.fromkeys(
        ("/v1/audio", "/v1/realtime"), "These models see pictures and videos, and hear nothing."
    ),
    "/v1/images": "These models look at pictures, and draw none: ask POST /v1/chat/completions.",
    **dict.fromkeys(
        ("/v1/responses/", "/v1/conversations", "/v1/files", "/v1/batches", "/v1/messages/batches"),
        "This server is stateless: nothing is kept from one request to the next.",
    ),
}


def _of_routing(error: HTTPException, request: Request) -> ApiError:
    path = route_path(request.scope)
    if error.status_code == 404:
        known = request.app.openapi()["paths"]
        near = [f"/v1{path}", path.removeprefix("/v1")]
        near += difflib.get_close_matches(path, known, n=1, cutoff=0.8)
        meant = next((f"Did you mean {name}?" for name in near if name in known), None)
        reason = next((_WITHOUT[start] for start in _WITHOUT if path.startswith(start)), None)
        advice = reason or meant or "GET /openapi.json lists what there is."
        return ApiError(404, "not_found", f"There is no {path} here. {advice}")
    if error.status_code == 405:
        allowed = dict(error.headers or {}).get("Allow", "another method")
        method = request.state.record.method
        message = f"{method} is not allowed at {path}; use {allowed}."
        return ApiError(405, "method_not_allowed", message)
    return ApiError(error.status_code, "invalid_value", str(error.detail))
