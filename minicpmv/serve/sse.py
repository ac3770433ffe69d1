"""Server-sent events, and what each protocol must write of an answer as it comes."""

from typing import Any, Protocol

from pydantic_core import to_json

from .errors import ApiError
from .jobs import Event

EVENT_STREAM = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"  # of Ollama
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class Writer(Protocol):
    """One protocol's form of one answer in parts.

    Fields:
        media_type: of the whole answer.
        keep_alive: what may be sent in between, and means nothing; empty where there is no such.
    """

    media_type: str
    keep_alive: bytes

    def write(self, event: Event) -> bytes:
        """What an event is in this protocol; empty for nothing."""

    def end(self) -> bytes:
        """What comes after the last answer."""

    def error(self, error: ApiError) -> bytes:
        """An answer that has begun ends so; nothing comes after it."""


def data(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + to_json(value) + b"\n\n"


def named(event: str, value: Any) -> bytes:
    """One event with a name, as `/v1/responses` and `/v1/messages` have them."""
    return f"event: {event}\ndata: ".encode() + to_json(value) + b"\n\n"
