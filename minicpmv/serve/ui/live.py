"""The live tab's way to the server: a few frames of a camera and a question, answered as lines.

The browser drops what is older than the frame it sends, so at most one request of a camera runs.
Nothing is written to a disk.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from .client import Client, End, ServerError

MAX_BYTES = 8 * 2**20
MAX_FRAMES = 4
MAX_TOKENS = 512
_JPEG = "data:image/jpeg;base64,"


class _RefusedError(Exception):
    """A body that is not one of our page's."""


def live_routes(client: Client) -> APIRouter:
    """`GET /live/models` and `POST /live/answer` of the page."""
    router = APIRouter()

    @router.get("/live/models")
    async def models() -> JSONResponse:
        try:
            found = await client.models()
        except ServerError as error:
            return JSONResponse({"error": error.message})
        return JSONResponse({"models": [model.name for model in found]})

    @router.post("/live/answer")
    async def answer(request: Request) -> Any:
        try:
            _check_origin(request)
            asked = _request(await _body(request))
        except _RefusedError as refusal:
            return JSONResponse({"error": str(refusal)}, 400)
        return StreamingResponse(_lines(client, asked), media_type="application/x-ndjson")

    return router


def _check_origin(request: Request) -> None:
    """Pages of other places may not ask: a browser says where a script comes from."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise _RefusedError(f"The origin {origin!r} is another page.")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise _RefusedError("The body must be application/json.")


async def _body(request: Request) -> dict[str, Any]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise _RefusedError(f"The frames have more than {MAX_BYTES} bytes.")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _RefusedError("The body is no JSON object.")
    return found


def _request(body: dict[str, Any]) -> dict[str, Any]:
    """The chat completion that a body asks for."""
    model, question = body.get("model"), body.get("question")
    frames, max_tokens = body.get("frames"), body.get("max_tokens")
    if not isinstance(model, str) or not isinstance(question, str) or not question.strip():
        raise _RefusedError("The body lacks a model, or a question.")
    if not isinstance(frames, list) or not 1 <= len(frames) <= MAX_FRAMES:
        raise _RefusedError(f"The body must have 1 to {MAX_FRAMES} frames.")
    if not all(isinstance(frame, str) and frame.startswith(_JPEG) for frame in frames):
        raise _RefusedError("A frame is no JPEG picture as a data URL.")
    if type(max_tokens) is not int or not 1 <= max_tokens <= MAX_TOKENS:
        raise _RefusedError(f"max_tokens must be a whole number from 1 to {MAX_TOKENS}.")
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": frame, "detail": "low"}} for frame in frames
    ]
    parts.append({"type": "text", "text": question.strip()})
    return {
        "model": model,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": parts}],
    }


async def _lines(client: Client, asked: dict[str, Any]) -> AsyncGenerator[str, None]:
    """One JSON object a line: `text` as it comes, then `end`; or `error`."""
    try:
        async with aclosing(client.answer(asked)) as events:
            async for event in events:
                if isinstance(event, End):
                    usage = event.usage
                    counts = None if usage is None else [usage.prompt, usage.answer]
                    yield _line({"end": event.reason, "tokens": counts})
                else:
                    yield _line({"text": event.text})
    except ServerError as error:
        yield _line({"error": error.message})


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
