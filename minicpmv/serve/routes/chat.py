"""`POST /v1/chat/completions`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ...engine.answer import Answer, TokenLogprob
from ...version import VERSION
from ..answering import messages_of, stream, whole
from ..bodies import json_body
from ..errors import ApiError
from ..forms import Form, form_of
from ..jobs import Event, Finished, Job, Piece, Started
from ..parameters import generation, num_answers
from ..schema.openai import ChatRequest
from ..sse import DONE, EVENT_STREAM, KEEP_ALIVE, data
from ..tools import Call, CallDelta

router = APIRouter(tags=["chat"])

FINGERPRINT = f"fp_minicpmv_{VERSION}"
LEAST = -9999.0  # OpenAI's word for a token that cannot be


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(
    request: Request, body: Annotated[ChatRequest, json_body(ChatRequest)]
) -> Response:
    """Answer a conversation: as one JSON object, or with `stream` as server-sent events."""
    server = request.app.state.server
    record = request.state.record
    card = await server.backend.card(body.model)
    options = generation(body, card, server.settings, ignored=server.metrics.parameter_ignored)
    ignored = server.metrics.parameter_ignored
    form = await form_of(body, card, options, server.settings, ignored)
    messages = form.shown(await messages_of(server, request, body))
    job = Job(body.model, messages, form.options, num_answers(body), record.request_id)
    writer = ChatForm(body, record.request_id, form)
    if body.stream:
        return stream(server, request, job, writer)
    return JSONResponse(writer.whole(await whole(server, request, job)))


class ChatForm:
    """How this route writes answers, whole and in parts."""

    media_type = EVENT_STREAM
    keep_alive = KEEP_ALIVE

    def __init__(self, body: ChatRequest, request_id: str, form: Form):
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
        self._tells_all = options is not None and bool(options.continuous_usage_stats)
        self._shows_ids = bool(body.return_tokens_as_token_ids)
        self._num_input_tokens = 0
        self._num_tokens = [0] * self._num_answers  # of each answer so far
        self._form = form
        self._readers = [form.reader() for _ in range(self._num_answers)]
        self._finished: list[Answer] = []

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = []
        for index, answer in enumerate(answers):
            words, calls = self._form.said(answer.text)
            message: dict[str, Any] = {"role": "assistant", "content": words, "refusal": None}
            if calls:
                message |= {"content": words or None, "tool_calls": list(map(_call, calls))}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "finish_reason": finish_reason(answer, has_calls=bool(calls)),
                    "logprobs": self._logprobs(answer.logprobs or ()),
                }
            )
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": choices, "usage": usage(answers)}

    def write(self, event: Event) -> bytes:
        if isinstance(event, Started):
            self._num_input_tokens = event.num_input_tokens
            calls = self._form.calls
            content = "" if calls is None or calls.may_be_text else None
            role = {"role": "assistant", "content": content}
            return b"".join(self._chunk(index, role) for index in range(self._num_answers))
        if isinstance(event, Piece):
            self._num_tokens[event.index] = event.num_tokens
            return self._piece(event)
        assert isinstance(event, Finished)
        self._num_tokens[event.index] = event.answer.num_output_tokens
        self._finished.append(event.answer)
        has_calls = self._readers[event.index].num_calls > 0
        return self._chunk(event.index, {}, finish_reason(event.answer, has_calls=has_calls))

    def _piece(self, piece: Piece) -> bytes:
        words, calls = self._readers[piece.index].read(piece.text)
        logprobs = self._logprobs(piece.tokens)
        if self._form.calls is None or words:
            return self._chunk(piece.index, {"content": words}, logprobs=logprobs)
        deltas = [{"tool_calls": [_call_delta(call)]} for call in calls]
        if not deltas and logprobs is not None:
            return self._chunk(piece.index, {}, logprobs=logprobs)
        chunks = b""
        for delta in deltas:  # one each, which every client reads
            chunks += self._chunk(piece.index, delta, logprobs=logprobs)
            logprobs = self._logprobs(())
        return chunks

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
        so_far = None
        if self._tells_all:
            so_far = usage_of(self._num_input_tokens, self._num_tokens[index])
        return data(self._with_choices([choice], so_far))

    def _with_choices(
        self, choices: Sequence[Any], total: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return {**chunk, "usage": total} if self._tells_usage else chunk

    def _logprobs(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        content = [
            {**self._token(token), "top_logprobs": [self._token(other) for other in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: TokenLogprob) -> dict[str, Any]:
        shows_id = self._shows_ids and token.token_id >= 0  # a server behind may not tell it
        return {
            "token": f"token_id:{token.token_id}" if shows_id else token.text,
            "logprob": max(token.logprob, LEAST),
            "bytes": list(token.data),
        }


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_delta(delta: CallDelta) -> dict[str, Any]:
    if delta.id is None:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    function = {"name": delta.name, "arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def finish_reason(answer: Answer, *, has_calls: bool = False) -> str:
    """In OpenAI's words, which has none for a limit of time."""
    if has_calls and answer.finish_reason == "stop" and answer.stop_text is None:
        return "tool_calls"
    return "length" if answer.finish_reason == "time" else answer.finish_reason


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """The prompt is counted once for all answers to it."""
    prompt = max((answer.num_input_tokens for answer in answers), default=0)
    completion = sum(answer.num_output_tokens for answer in answers)
    cached = max((answer.num_cached_tokens for answer in answers), default=0)
    return usage_of(prompt, completion) | {"prompt_tokens_details": {"cached_tokens": cached}}


def usage_of(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
