"""`POST /v1/chat/completions`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ...engine.answer import Answer, TokenLogprob
from ..answering import messages_of, stream, whole
from ..bodies import json_body
from ..errors import ApiError
from ..jobs import Event, Finished, Job, Piece, Started
from ..parameters import generation, num_answers
from ..schema.openai import ChatRequest
from ..sse import DONE, EVENT_STREAM, KEEP_ALIVE, data
from ..version import VERSION

router = APIRouter(tags=["chat"])

FINGERPRINT = f"fp_minicpmv_{VERSION}"
_LEAST = -9999.0  # OpenAI's word for a token that cannot be


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(
    request: Request, body: Annotated[ChatRequest, json_body(ChatRequest)]
) -> Response:
    """Answer a conversation: as one JSON object, or with `stream` as server-sent events."""
    server = request.app.state.server
    record = request.state.record
    card = await server.backend.card(body.model)
    options = generation(body, card, server.settings, ignored=server.metrics.parameter_ignored)
    messages = await messages_of(server, request, body)
    job = Job(body.model, messages, options, num_answers(body), record.request_id)
    form = ChatForm(body, record.request_id)
    if body.stream:
        return stream(server, request, job, form)
    return JSONResponse(form.whole(await whole(server, request, job)))


class ChatForm:
    """How this route writes answers, whole and in parts."""

    media_type = EVENT_STREAM
    keep_alive = KEEP_ALIVE

    def __init__(self, body: ChatRequest, request_id: str):
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": FINGERPRINT,
        }
        self._num_answers = num_answers(body)
        self._has_logprobs = bool(body.logprobs)
        options = body.stream_options
        self._tells_usage = options is not None and bool(options.include_usage)
        self._finished: list[Answer] = []

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "finish_reason": finish_reason(answer),
                "logprobs": self._logprobs(answer.logprobs or ()),
            }
            for index, answer in enumerate(answers)
        ]
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": choices, "usage": usage(answers)}

    def write(self, event: Event) -> bytes:
        if isinstance(event, Started):
            role = {"role": "assistant", "content": ""}
            return b"".join(self._chunk(index, role) for index in range(self._num_answers))
        if isinstance(event, Piece):
            logprobs = self._logprobs(event.tokens)
            return self._chunk(event.index, {"content": event.text}, logprobs=logprobs)
        assert isinstance(event, Finished)
        self._finished.append(event.answer)
        return self._chunk(event.index, {}, finish_reason(event.answer))

    def end(self) -> bytes:
        last = data(self._with_choices([], usage(self._finished))) if self._tells_usage else b""
        return last + DONE

    def error(self, error: ApiError) -> bytes:
        return data(error.body())

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        reason: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        return data(self._with_choices([choice]))

    def _with_choices(
        self, choices: Sequence[Any], total: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return {**chunk, "usage": total} if self._tells_usage else chunk

    def _logprobs(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        content = [
            {**_token(token), "top_logprobs": [_token(other) for other in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.text,
        "logprob": max(token.logprob, _LEAST),
        "bytes": list(token.text.encode()),
    }


def finish_reason(answer: Answer) -> str:
    """In OpenAI's words, which has none for a limit of time."""
    return "length" if answer.finish_reason == "time" else answer.finish_reason


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """The prompt is counted once for all answers to it."""
    prompt = max((answer.num_input_tokens for answer in answers), default=0)
    completion = sum(answer.num_output_tokens for answer in answers)
    cached = max((answer.num_cached_tokens for answer in answers), default=0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
