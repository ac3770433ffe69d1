"""What goes wrong with a server behind this one, and what the client is told of it."""

import json
import math
from typing import Any

from pydantic_core import from_json

from ...errors import short
from ..errors import ApiError

_MOST = 600  # characters of a message that is passed on
_RETRY_S = 2
_MOST_RETRY_S = 3600
# Codes of ours that a server of this package gives; vLLM's are numbers.
_CODES = {"invalid_image", "url_not_allowed", "context_length_exceeded", "unknown_parameter"}


class UpstreamError(Exception):
    """A server did not do what it was asked for.

    Args:
        error: what the client is told, if nobody else can help.
        is_dead: whether the server does not work, so that nobody should ask it for now.
        elsewhere: whether another server may do better.
    """

    def __init__(self, error: ApiError, *, is_dead: bool = False, elsewhere: bool = True):
        super().__init__(error.message)
        self.error = error
        self.is_dead = is_dead
        self.elsewhere = elsewhere


def gone(reason: str) -> UpstreamError:
    """It cannot be reached, or broke off."""
    return UpstreamError(
        ApiError(
            503,
            "unavailable",
            f"The server behind this one {reason}. Try again.",
            retry_after=_RETRY_S,
        ),
        is_dead=True,
    )


def stalled(seconds: float) -> UpstreamError:
    return UpstreamError(
        ApiError(
            503,
            "unavailable",
            f"The server behind this one sent nothing for {seconds:g} s. Try again.",
            retry_after=_RETRY_S,
        )
    )


def nonsense(found: Any) -> UpstreamError:
    """It speaks another protocol."""
    return UpstreamError(
        ApiError(
            500,
            "internal_error",
            f"The server behind this one answered {short(found)}, which is no chunk of an answer.",
        )
    )


def count(value: Any) -> int:
    """A number of tokens that a server tells.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{short(value)} is no number of tokens")
    return value


def tokens_in(found: dict[str, Any]) -> list[int]:
    """What `/tokenize` answers.

    Raises:
        ApiError: it is something else.
    """
    tokens = found.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise nonsense(found).error
    return tokens


def finite(value: Any) -> float:
    """A number that a server tells.

    Raises:
        TypeError, ValueError: it is none, or not finite.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def of_answer(status: int, body: bytes, retry_after: str | None = None) -> UpstreamError:
    """An HTTP answer that is no success."""
    return of_error(status, _error_in(body), retry_after)


def of_error(status: int, found: dict[str, Any], retry_after: str | None = None) -> UpstreamError:
    """An object `error`, from an answer or in the middle of a stream."""
    message = " ".join(str(found.get("message") or "no reason given").split())
    message = message if len(message) <= _MOST else f"{message[: _MOST - 3]}..."
    is_told = retry_after is not None and retry_after.isdecimal() and len(retry_after) < 10
    wait = min(int(retry_after or 0), _MOST_RETRY_S) if is_told else _RETRY_S
    if status == 429:
        error = ApiError(429, "queue_full", message, retry_after=wait)
        return UpstreamError(error)
    if status in (502, 503, 504):
        return UpstreamError(ApiError(503, "unavailable", message, retry_after=wait))
    if status in (401, 403):
        return UpstreamError(
            ApiError(
                500,
                "internal_error",
                f"A server behind this one refuses its key ({status}). Whoever runs this server "
                "sets --upstream-api-key.",
            )
        )
    if status == 404:
        return UpstreamError(ApiError(404, "model_not_found", message, param="model"))
    if 400 <= status < 500:
        code = found.get("code")
        if not isinstance(code, str) or code not in _CODES:
            is_long = "context length" in message or "longer than the maximum" in message
            code = "context_length_exceeded" if is_long else "invalid_value"
        if status == 413:
            code = "body_too_large"
        param = found.get("param")
        kind = 413 if status == 413 else 400
        error = ApiError(kind, code, message, param=param if isinstance(param, str) else None)
        return UpstreamError(error, elsewhere=False)
    return UpstreamError(
        ApiError(500, "internal_error", "The server behind this one failed. Ask again, or another.")
    )


def _error_in(body: bytes) -> dict[str, Any]:
    try:
        found = from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError):
        return {"message": body[:_MOST].decode("utf-8", "replace").strip() or None}
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict):
        return error
    detail = found.get("detail", found) if isinstance(found, dict) else found
    return {"message": error if isinstance(error, str) else json.dumps(detail)}
