"""What every protocol does alike once its request is a chat completion: read it, and answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...engine.answer import Answer, TokenLogprob
from ..answering import messages_of, stream, whole
from ..bodies import validate
from ..forms import Form, form_of
from ..jobs import Job, ModelCard
from ..parameters import generation
from ..schema.openai import ChatRequest
from ..sse import Writer
from .names import Names
from .only import Ignored


@dataclass(frozen=True)
class Question:
    """A request that has been read.

    Fields:
        chat: what it asks, as a chat completion.
        form: of the answer: text, or calls of functions.
        names: the client's own names of that one's fields.
    """

    chat: ChatRequest
    card: ModelCard
    form: Form
    job: Job
    names: Names


def ignored_of(request: Request) -> Ignored | None:
    """What counts fields without effect; None where they are refused."""
    server = request.app.state.server
    return server.metrics.parameter_ignored if server.settings.lenient else None


async def read(
    request: Request, fields: dict[str, Any], names: Names, *, must_fit: bool = True
) -> Question:
    """The request, its pictures fetched and decoded.

    Args:
        fields: of a chat completion.
        must_fit: see `parameters.generation`.

    Raises:
        ApiError: about a field, by the client's own name of it.
    """
    server = request.app.state.server
    settings, ignored = server.settings, server.metrics.parameter_ignored
    with names.errors():
        chat = validate(ChatRequest, fields)
        card = await server.backend.card(chat.model)
        options = generation(chat, card, settings, ignored=ignored, must_fit=must_fit)
        form = await form_of(chat, card, options, settings, ignored)
        messages = form.shown(await messages_of(server, request, chat))
    job = Job(chat.model, messages, form.options, 1, request.state.record.request_id)
    return Question(chat, card, form, job, names)


async def answer(request: Request, question: Question) -> Answer:
    """The one answer to it.

    Raises:
        ApiError: by the client's own names, as of `read`.
        ClientGoneError: nobody waits any more.
    """
    with question.names.errors():
        (only,) = await whole(request.app.state.server, request, question.job)
    return only


class Events(Protocol):
    """One protocol's form of text and calls as they come."""

    def text(self, delta: str, tokens: Iterable[TokenLogprob] = ()) -> list[dict[str, Any]]: ...

    def call(self, call_id: str, name: str) -> list[dict[str, Any]]: ...

    def arguments(self, delta: str) -> list[dict[str, Any]]: ...


class Reader:
    """Reads an answer as it comes into the events of a protocol.

    Args:
        form: of the answer.
    """

    def __init__(self, form: Form, events: Events):
        self._is_text = form.calls is None
        self._reader = form.reader()
        self._events = events

    def read(self, text: str, tokens: Iterable[TokenLogprob] = ()) -> list[dict[str, Any]]:
        """A piece of it: words, or calls of functions, whose tokens have no place."""
        words, deltas = self._reader.read(text)
        if words or self._is_text:
            return self._events.text(words, tokens)
        found = []
        for delta in deltas:
            if delta.id is not None and delta.name is not None:
                found += self._events.call(delta.id, delta.name)
            if delta.arguments:
                found += self._events.arguments(delta.arguments)
        return found


def answer_in_parts(request: Request, question: Question, writer: Writer) -> Response:
    """The answer as it comes."""
    inner = stream(request.app.state.server, request, question.job, writer)
    return _Named(inner, question.names)


class _Named(Response):
    """A response whose errors, where nothing was sent yet, speak the client's language."""

    def __init__(self, inner: Response, names: Names):
        super().__init__(media_type=None)
        self._inner = inner
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._names.errors():
            await self._inner(scope, receive, send)
