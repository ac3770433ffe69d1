"""The server as the page sees it: OpenAI's protocol over HTTP, streamed.

Leaving an answer early, by closing its generator or cancelling its task, closes the connection, and
the server stops computing it.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ...media.download import httpx

CONNECT_S = 5.0
SILENCE_S = 600.0  # a long prompt may be worked off in silence by servers that send no keep-alive


class ServerError(Exception):
    """What the server refused, or why it cannot be asked; one sentence for people.

    Args:
        code: the server's word for it; "unreachable" where there is none.
    """

    def __init__(self, message: str, code: str = "unreachable"):
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Token:
    """A token of an answer: its natural log-probability, and those of the likeliest at its place.

    `top` is a sequence of (text, log-probability), likeliest first.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """The next text of an answer, with its tokens where log-probabilities were asked for."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What an answer cost, in tokens: `cached` of the prompt were remembered."""

    prompt: int
    answer: int
    cached: int = 0


@dataclass(frozen=True)
class End:
    """The last event of an answer; `reason` is "stop", "length" or another word of the server."""

    reason: str
    usage: Usage | None = None


@dataclass(frozen=True)
class Model:
    """A model that the server offers.

    Fields:
        context: most tokens of prompt and answer; None where the server does not say.
        pictures: the settings by which it cuts pictures, as `CutSettings` names them; None where
            the server does not say.
    """

    name: str
    context: int | None = None
    pictures: Mapping[str, Any] | None = field(default=None, hash=False)


class Client:
    """A server at `base_url`, which ends in `/v1`, or to which `/v1` is added.

    It belongs to the event loop in which it is first used, until it is closed.

    Raises:
        ValueError: `base_url` is not an address of http or https.
    """

    def __init__(self, base_url: str, api_key: str | None = None):
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"The address of the server is {base_url!r}; it must look like "
                "http://127.0.0.1:8000."
            )
        path = parts.path.rstrip("/")
        self.base_url = parts._replace(
            path=path if path.endswith("/v1") else f"{path}/v1", query="", fragment=""
        ).geturl()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._uses_proxy = not _is_loopback(parts.hostname)
        self._http: Any = None

    async def models(self) -> list[Model]:
        """What the server offers, in its order.

        Raises:
            ServerError: it cannot be asked, or refuses.
        """
        response = await self._get("/models")
        return [_model(item) for item in _items(response, "data")]

    async def answer(self, request: Mapping[str, Any]) -> AsyncGenerator[Delta | End, None]:
        """The events of one streamed answer; the last is `End`.

        Args:
            request: the body of a chat completion, without `stream`.

        Raises:
            ServerError: the server refuses, cannot be reached, or gives up in the middle.
        """
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        reason: str | None = None
        usage = None
        try:
            async with self._open().stream("POST", "/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise _error(response.status_code, await response.aread())
                async with aclosing(_read_events(response.aiter_lines())) as chunks:
                    async for chunk in chunks:
                        choice: Mapping[str, Any] = next(iter(chunk.get("choices") or ()), {})
                        delta = _delta(choice)
                        if delta.text or delta.tokens:
                            yield delta
                        reason = choice.get("finish_reason") or reason
                        usage = _usage(chunk.get("usage")) or usage
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._unreachable(error) from error
        if reason is None:
            raise ServerError("The server broke off in the middle of the answer. Ask again.")
        yield End(reason, usage)

    async def close(self) -> None:
        """Close the connections; the next question opens new ones, in its own event loop."""
        if self._http is not None:
            http, self._http = self._http, None
            await http.aclose()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _get(self, path: str) -> Any:
        try:
            response = await self._open().get(path)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code != 200:
            raise _error(response.status_code, response.content)
        return _json(response.content)

    def _open(self) -> Any:
        if self._http is None:
            self._http = httpx.AsyncClient(
                base_url=self.base_url,
                headers=self._headers,
                timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
                trust_env=self._uses_proxy,
            )
        return self._http

    def _unreachable(self, error: Exception) -> ServerError:
        why = " ".join(str(error).split()) or type(error).__name__
        return ServerError(f"The server at {self.base_url} cannot be reached: {why}.")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _read_events(lines: AsyncIterator[str]) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of server-sent events until `[DONE]`; comments are left out."""
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        chunk = _json(data.encode())
        if isinstance(chunk.get("error"), dict):
            raise _refusal(chunk["error"])
        yield chunk


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        shown = data[:80].decode(errors="replace")
        raise ServerError(
            f"The server answered {shown!r}, which is no JSON object; is it a server of models?",
            "invalid_answer",
        )
    return found


def _error(status: int, data: bytes) -> ServerError:
    """The error of a response that is not 200."""
    try:
        error = json.loads(data).get("error")
    except (ValueError, AttributeError):
        error = None
    if isinstance(error, str):
        return ServerError(error, str(status))
    if isinstance(error, dict):
        return _refusal(error)
    return ServerError(f"The server answered with status {status} and no reason.", str(status))


def _refusal(error: Mapping[str, Any]) -> ServerError:
    message = error.get("message") or "The server gave no reason."
    return ServerError(str(message), str(error.get("code") or error.get("type") or "error"))


def _delta(choice: Mapping[str, Any]) -> Delta:
    text = (choice.get("delta") or {}).get("content") or ""
    found = (choice.get("logprobs") or {}).get("content") or ()
    tokens = tuple(
        Token(
            item["token"],
            item["logprob"],
            tuple((top["token"], top["logprob"]) for top in item.get("top_logprobs") or ()),
        )
        for item in found
    )
    return Delta(text, tokens)


def _usage(found: Mapping[str, Any] | None) -> Usage | None:
    if not found:
        return None
    details = found.get("prompt_tokens_details") or {}
    return Usage(
        found.get("prompt_tokens", 0),
        found.get("completion_tokens", 0),
        details.get("cached_tokens") or 0,
    )


def _items(response: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = response.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _model(item: Mapping[str, Any]) -> Model:
    context = item.get("max_model_len")
    pictures = item.get("pictures")
    return Model(
        str(item.get("id", "")),
        context if isinstance(context, int) else None,
        pictures if isinstance(pictures, dict) else None,
    )
