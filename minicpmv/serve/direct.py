"""The answers of the application without HTTP: for programs that have a model in their process.

A body goes through the same parsing, route and form of errors as one that comes over a port; what
guards a port (keys, limits of waiting requests, clients that go away) is left out.
"""

import asyncio
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from .access_log import AccessLog, Exchange, LineWriter
from .app import create_app
from .errors import ApiError
from .jobs import Backend
from .middleware import error_response, internal_error
from .settings import ServeSettings


@dataclass(frozen=True)
class Reply:
    """What came back; `request_id` is the server's name for the request."""

    status: int
    body: bytes
    request_id: str = ""


class _NoLines(LineWriter):
    """Who asks has every answer; a line for each beside it would tell nothing."""

    def write(self, line: str) -> None:
        pass


class DirectServer:
    """Models behind the routes of `minicpmv serve`; inside an `async with` block they are loaded.

    Args:
        backend: what computes the answers; by default what `settings.engine` says.

    Raises:
        ArgumentError: a setting is wrong.
        OSError, ValueError, ImportError: when the block is entered, the model cannot be loaded.
    """

    def __init__(self, settings: ServeSettings, backend: Backend | None = None):
        self._app = create_app(settings, backend, log=AccessLog("text", _NoLines()))
        self._posts = self._app.state.posts
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "DirectServer":
        await self._stack.enter_async_context(self._app.router.lifespan_context(self._app))
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def post(self, path: str, data: bytes) -> Reply:
        """The answer to a body at a path that takes one; `stream` may not be set in it."""
        post = self._posts[path]
        record = Exchange(uuid.uuid4().hex, "POST", path)
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [],
            "app": self._app,
            "state": {"record": record, "owner": ""},
        }
        request = Request(scope, receive=_stays)
        with self._app.state.server.exchange(record):
            try:
                response: Response = await post(request, data)
            except ApiError as error:
                response = error_response(error, record, path)
            except Exception:
                response = error_response(internal_error(record), record, path)
        return Reply(response.status_code, bytes(response.body), record.request_id)


async def _stays() -> Any:
    """What a client sends that waits for its answer: nothing."""
    await asyncio.Event().wait()
