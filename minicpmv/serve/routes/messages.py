"""Anthropic's `POST /v1/messages` and `/v1/messages/count_tokens`."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..bodies import json_body
from ..errors import ApiError, error_body
from ..jobs import Event, Finished, Piece, Started
from ..protocols.anthropic_events import MessageEvents
from ..protocols.anthropic_request import chat_of_messages
from ..protocols.ask import Question, Reader, answer, answer_in_parts, ignored_of, read
from ..schema.anthropic import CountTokensRequest, MessagesRequest
from ..sse import EVENT_STREAM, named

router = APIRouter(tags=["messages"])
PATH = "/v1/messages"


@router.post(PATH, response_model=None)
async def messages(
    request: Request, body: Annotated[MessagesRequest, json_body(MessagesRequest)]
) -> Response:
    """Answer a conversation: as one JSON object, or with `stream` as server-sent events."""
    question = await read(request, *chat_of_messages(body, ignored_of(request)), must_fit=False)
    writer = MessagesForm(body, question)
    if body.stream:
        return answer_in_parts(request, question, writer)
    only = await answer(request, question)
    writer.events.begin(only.num_input_tokens)
    writer.reader.read(only.text)
    writer.events.finish(only)
    return JSONResponse(writer.events.message)


@router.post(f"{PATH}/count_tokens")
async def count_tokens(
    request: Request, body: Annotated[CountTokensRequest, json_body(CountTokensRequest)]
) -> dict[str, int]:
    """How many tokens the prompt of a request has, pictures included."""
    question = await read(request, *chat_of_messages(body, ignored_of(request)), must_fit=False)
    backend = request.app.state.server.backend
    with question.names.errors():
        ids = await backend.tokenize(body.model, question.job.prompt)
    return {"input_tokens": len(ids)}


class MessagesForm:
    """How this route writes an answer in parts."""

    media_type = EVENT_STREAM
    keep_alive = named("ping", {"type": "ping"})

    def __init__(self, body: MessagesRequest, question: Question):
        message_id = f"msg_{question.job.request_id}"
        self.events = MessageEvents(message_id, body.model, body.max_tokens)
        self.reader = Reader(question.form, self.events)

    def write(self, event: Event) -> bytes:
        if isinstance(event, Started):
            return _lines(self.events.begin(event.num_input_tokens))
        if isinstance(event, Piece):
            return _lines(self.reader.read(event.text))
        assert isinstance(event, Finished)
        return _lines(self.events.finish(event.answer))

    def end(self) -> bytes:
        return b""

    def error(self, error: ApiError) -> bytes:
        return named("error", error_body(error, PATH))


def _lines(events: list[dict[str, Any]]) -> bytes:
    return b"".join(named(event["type"], event) for event in events)
