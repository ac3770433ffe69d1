"""`POST /v1/responses`: OpenAI's newer way to ask, without a memory of earlier responses."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ..bodies import json_body
from ..errors import ApiError
from ..jobs import Event, Finished, Piece, Started
from ..protocols.ask import Question, Reader, answer, answer_in_parts, ignored_of, read
from ..protocols.responses_events import ResponseEvents
from ..protocols.responses_request import chat_of_responses
from ..schema.responses import ResponsesRequest
from ..sse import EVENT_STREAM, KEEP_ALIVE, named

router = APIRouter(tags=["responses"])


@router.post("/v1/responses", response_model=None)
async def responses(
    request: Request, body: Annotated[ResponsesRequest, json_body(ResponsesRequest)]
) -> Response:
    """Answer text and pictures: as one JSON object, or with `stream` as server-sent events."""
    question = await read(request, *chat_of_responses(body, ignored_of(request)))
    writer = ResponsesForm(body, question)
    if body.stream:
        return answer_in_parts(request, question, writer)
    only = await answer(request, question)
    writer.reader.read(only.text, only.logprobs or ())
    writer.events.finish(only)
    return JSONResponse(writer.events.response)


class ResponsesForm:
    """How this route writes an answer in parts."""

    media_type = EVENT_STREAM
    keep_alive = KEEP_ALIVE

    def __init__(self, body: ResponsesRequest, question: Question):
        self.events = ResponseEvents(_head(body, question), bool(question.chat.logprobs))
        self.reader = Reader(question.form, self.events)

    def write(self, event: Event) -> bytes:
        if isinstance(event, Started):
            return _lines(self.events.begin())
        if isinstance(event, Piece):
            return _lines(self.reader.read(event.text, event.tokens))
        assert isinstance(event, Finished)
        return _lines(self.events.finish(event.answer))

    def end(self) -> bytes:
        return b""

    def error(self, error: ApiError) -> bytes:
        return _lines(self.events.fail(error))


def _lines(events: list[dict[str, Any]]) -> bytes:
    return b"".join(named(event["type"], event) for event in events)


def _head(body: ResponsesRequest, question: Question) -> dict[str, Any]:
    """What a response says of its request."""
    defaults = question.card.defaults
    format_ = body.text.format if body.text is not None else None
    asked = body.model_dump(by_alias=True, exclude_none=True, include={"tools", "tool_choice"})
    return {
        "id": f"resp_{question.job.request_id}",
        "object": "response",
        "created_at": int(time.time()),
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": body.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": _or(body.temperature, defaults.get("temperature")),
        "text": {
            "format": format_.model_dump(by_alias=True, exclude_none=True)
            if format_ is not None
            else {"type": "text"}
        },
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "top_logprobs": question.chat.top_logprobs or 0,
        "top_p": _or(body.top_p, defaults.get("top_p")),
        "truncation": "disabled",
        "user": body.user,
    }


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
