"""HTTP to the servers behind this one, through the client that huggingface_hub brings."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from pydantic_core import from_json

try:
    import httpx2 as httpx  # huggingface_hub 2
except ImportError:
    import httpx  # type: ignore[no-redef, import-not-found]  # huggingface_hub 1

from .failures import gone, nonsense, of_answer
from .request import Call

_CONNECT_S = 5.0
_SEND_S = 60.0
_KEEP_ALIVE_S = 2.0  # vLLM closes what rests for 5 s
_MOST_ERROR = 1 << 20  # bytes of an error that are read
_MOST_LINE = 64 << 20

__all__ = ["chunks", "httpx", "make_client", "parsed", "post_json"]


def make_client(api_key: str | None = None) -> "httpx.AsyncClient":
    """Waits for answers as long as its callers do; uses no proxy."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=_CONNECT_S, write=_SEND_S),
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=_KEEP_ALIVE_S
        ),
        trust_env=False,
    )


async def chunks(
    client: "httpx.AsyncClient", url: str, call: Call, headers: Mapping[str, str]
) -> AsyncGenerator[Any, None]:
    """The objects of a stream of events; closing the generator ends the answer there.

    Raises:
        UpstreamError: the server refuses, breaks off before `[DONE]`, or sends something else.
    """
    try:
        async with client.stream(
            "POST",
            f"{url}{call.path}",
            content=call.body,
            headers={"content-type": "application/json", **headers},
        ) as answer:
            if answer.status_code != 200:
                raise of_answer(
                    answer.status_code, await _body(answer), answer.headers.get("retry-after")
                )
            async for data in _data_of(answer):
                if data == b"[DONE]":
                    return
                yield parsed(data)
    except httpx.HTTPError as error:
        raise gone(_reason(error)) from error
    raise gone("broke off before the answer was complete")


async def _data_of(answer: Any) -> AsyncGenerator[bytes, None]:
    """What follows `data:`. Lines end at line feeds alone: JSON may hold other separators."""
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > _MOST_LINE:
            raise nonsense("a line without an end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


async def post_json(
    client: "httpx.AsyncClient", url: str, body: Any, within_s: float
) -> dict[str, Any]:
    """The object that a server answers with.

    Raises:
        UpstreamError: it refuses, or does not answer.
    """
    try:
        async with asyncio.timeout(within_s):
            answer = await client.post(url, json=body)
    except TimeoutError:
        raise gone(f"sent nothing for {within_s:g} s") from None
    except httpx.HTTPError as error:
        raise gone(_reason(error)) from error
    if answer.status_code != 200:
        raise of_answer(answer.status_code, answer.content, answer.headers.get("retry-after"))
    return parsed(answer.content)


async def _body(answer: Any) -> bytes:
    body = b""
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > _MOST_ERROR:
            break
    return body


def parsed(data: bytes) -> dict[str, Any]:
    """An object of JSON proper: what it holds can be sent on, as no NaN, half of a surrogate pair
    or endless nesting can.

    Raises:
        UpstreamError: it is something else.
    """
    try:
        found = from_json(data, allow_inf_nan=False)
    except (ValueError, RecursionError):
        raise nonsense(data[:80].decode("utf-8", "replace")) from None
    if not isinstance(found, dict):
        raise nonsense(found)
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "cannot be reached"
    return "broke off"
