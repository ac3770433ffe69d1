"""What a browser may do on the page: nothing but talk to the page.

An answer can hold the address of a picture elsewhere; a browser would fetch it and so tell that
place what was asked. The headers forbid every other host.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_CONTENT = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "style-src 'self' 'unsafe-inline'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # Gradio makes functions of text
        "worker-src 'self' blob:",
        "connect-src 'self' data: blob:",
        "form-action 'self'",
        "base-uri 'self'",
        "object-src 'none'",
        "frame-ancestors 'self'",
    ]
)
HEADERS = {
    "content-security-policy": _CONTENT,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class PagePolicy:
    """ASGI middleware that puts `HEADERS` on every response."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: _Message, receive: Any, send: _Send) -> None:
        async def with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
