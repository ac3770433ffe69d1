"""The one error that a request can end with; each protocol gives it its own body."""

import re
from typing import Any

from ..engine.limits import QueueFullError
from ..errors import ArgumentError, PromptTooLongError
from ..media.policy import MediaRefusedError


class ApiError(Exception):
    """What a client is told.

    Args:
        status: of HTTP. Clients send a request again after 408, 409, 429 and 5xx: what would fail
            again has another one.
        code: a word for programs: "invalid_value", "unknown_parameter", "invalid_image",
            "url_not_allowed", "context_length_exceeded", "invalid_api_key", "model_not_found",
            "body_too_large", "queue_full", "unavailable", "internal_error" ...
        message: for people: what was found, what was expected, and the next step. It is cut where
            it repeats too much of what the client sent.
        param: the field it is about, as `messages[0].content[1].image_url`.
        retry_after: seconds, for 429 and 503.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        message = _cut(message, _MOST)
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = None if param is None else _cut(param, _MOST_PARAM)
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """OpenAI's coarse kinds of errors."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kinds |= {429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else _INVALID)

    def body(self) -> dict[str, dict[str, str | None]]:
        """As OpenAI writes it."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


_INVALID = "invalid_request_error"
_MOST = 2000  # characters of a message
_MOST_PARAM = 300


def _cut(text: str, most: int) -> str:
    """Without its middle, where it is long: the end says what is expected."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


class ClientGoneError(Exception):
    """The client closed the connection before its answer was complete; nobody is told."""


def from_exception(error: Exception, param: str | None = None) -> ApiError:
    """What a client is told when the library refuses what it sent.

    Args:
        error: ValueError, OSError or QueueFullError; of others the client learns nothing.
        param: the field that was being read.
    """
    if isinstance(error, ApiError):
        return error
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ArgumentError):
        message, named = _in_requests(error)
        is_long = isinstance(error, PromptTooLongError)
        param = param or ("messages" if is_long else named)
    if isinstance(error, QueueFullError):
        return ApiError(429, "queue_full", message, retry_after=1)
    if isinstance(error, PromptTooLongError):
        return ApiError(400, "context_length_exceeded", message, param=param)
    if isinstance(error, MediaRefusedError):
        return ApiError(400, "url_not_allowed", message, param=param)
    if isinstance(error, OSError):
        if error.strerror:  # with the name of a file of this computer
            message = error.strerror
        return ApiError(400, "invalid_image", message, param=param)
    if isinstance(error, ArgumentError | ValueError):
        return ApiError(400, "invalid_value", message, param=param)
    return ApiError(500, "internal_error", "Something went wrong in the server.")


# What options of the engine are called in requests of OpenAI's clients.
_IN_REQUESTS = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "max_slice_nums": "mm_processor_kwargs.max_slice_nums",
    "use_image_id": "mm_processor_kwargs.use_image_id",
    "num_frames": "mm_processor_kwargs.num_frames",
    "fps": "mm_processor_kwargs.fps",
    "constraint": "response_format",
}
_MARKED = re.compile(r"`(\w+)(=[^`]*)?`")


def _in_requests(error: ArgumentError) -> tuple[str, str | None]:
    """The message about options in the words of requests, and the first of them."""
    found = [_IN_REQUESTS.get(name, name) for name, _ in _MARKED.findall(error.marked)]
    text = _MARKED.sub(lambda m: _IN_REQUESTS.get(m[1], m[1]) + _as_json(m[2]), error.marked)
    return " ".join(text.replace("`", "").split()), next(iter(found), None)


def _as_json(value: str | None) -> str:
    """`=True` of Python with the value as JSON writes it."""
    words = {"=True": "=true", "=False": "=false", "=None": "=null"}
    return words.get(value or "", (value or "").replace("'", '"'))


def error_body(error: ApiError, path: str) -> dict[str, Any]:
    """As the protocol that speaks at `path` writes it."""
    if path.startswith("/api/"):  # Ollama's
        return {"error": error.message}
    if path.startswith("/v1/messages"):  # Anthropic's
        kind = _OF_ANTHROPIC.get(error.status, error.type)
        kind = "api_error" if kind == "server_error" else kind
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    return error.body()


_OF_ANTHROPIC = {413: "request_too_large", 503: "overloaded_error", 529: "overloaded_error"}
