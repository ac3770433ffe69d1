"""`POST /v1/completions`: text or token ids that go on, without a chat template."""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ...engine.answer import Answer, TokenLogprob
from ..answering import stream, whole
from ..bodies import json_body
from ..errors import ApiError
from ..forms import form_of
from ..jobs import Backend, Event, Finished, Job, Piece, Started
from ..parameters import fields_of, generation, num_answers
from ..schema.completions import CompletionRequest
from ..sse import DONE, EVENT_STREAM, KEEP_ALIVE, data
from .chat import FINGERPRINT, LEAST, finish_reason, usage_of

router = APIRouter(tags=["completions"])

_MAX_TOKENS = 16  # where a request says nothing, as in OpenAI's protocol
_MAX_ANSWERS = 128  # of all prompts together
_OWN = ("prompt", "echo", "suffix", "add_special_tokens")

Prompt = str | Sequence[int]


@router.post("/v1/completions", response_model=None)
async def completions(
    request: Request, body: Annotated[CompletionRequest, json_body(CompletionRequest)]
) -> Response:
    """Continue one or several texts: as one JSON object, or with `stream` as server-sent events."""
    server = request.app.state.server
    record = request.state.record
    prompts, num_each = prompts_of(body), num_answers(body)
    _check(body, len(prompts) * num_each)
    card = await server.backend.card(body.model)
    fields = {name: value for name, value in fields_of(body).items() if name not in _OWN}
    usual = max(_MAX_TOKENS, body.min_tokens or 0)
    fields.setdefault("max_tokens", min(usual, server.settings.max_tokens or usual))
    ignored = server.metrics.parameter_ignored
    options = generation(fields, card, server.settings, ignored=ignored)
    options = dict((await form_of(body, card, options, server.settings, ignored)).options)
    jobs = [Job(body.model, prompt, options, num_each, record.request_id) for prompt in prompts]
    texts = await _texts(server.backend, body.model, prompts) if body.echo else [""] * len(prompts)
    form = CompletionForm(body, record.request_id, texts)
    if body.stream:
        return stream(server, request, jobs, form)
    return JSONResponse(form.whole(await whole(server, request, jobs)))


def prompts_of(body: CompletionRequest) -> list[Prompt]:
    """Each by itself.

    Raises:
        ApiError: one is empty.
    """
    given = body.prompt
    is_one = isinstance(given, str) or isinstance(given[0], int)
    prompts: list[Any] = [given] if is_one else list(given)
    for index, prompt in enumerate(prompts):
        if not prompt:
            param = "prompt" if is_one else f"prompt[{index}]"
            message = f"{param} is empty; give some text, or token ids."
            raise ApiError(400, "invalid_value", message, param=param)
    return prompts


def _check(body: CompletionRequest, num_all: int) -> None:
    """
    Raises:
        ApiError: something is asked for that is not done here.
    """
    if num_all > _MAX_ANSWERS:
        message = f"n times the number of prompts is {num_all}; the most is {_MAX_ANSWERS}."
        raise ApiError(400, "invalid_value", message, param="n")
    reasons = {
        "suffix": (body.suffix, "text is only continued at its end; leave it out"),
        "echo": (
            body.echo and body.logprobs is not None,
            "is true beside logprobs, which are those of new tokens alone; send one of them",
        ),
        "add_special_tokens": (
            body.add_special_tokens is False,
            "is false; send token ids for a prompt that begins without them",
        ),
    }
    for name, (is_wrong, reason) in reasons.items():
        if is_wrong:
            raise ApiError(400, "invalid_value", f"{name}: {reason}.", param=name)


async def _texts(backend: Backend, model: str, prompts: Sequence[Prompt]) -> list[str]:
    return [
        prompt if isinstance(prompt, str) else await backend.detokenize(model, prompt)
        for prompt in prompts
    ]


class CompletionForm:
    """How this route writes answers, whole and in parts.

    Args:
        echoes: what the answers to each prompt begin with.
    """

    media_type = EVENT_STREAM
    keep_alive = KEEP_ALIVE

    def __init__(self, body: CompletionRequest, request_id: str, echoes: Sequence[str]):
        self._head = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": FINGERPRINT,
        }
        self._num_each = num_answers(body)
        self._echoes = echoes
        self._has_logprobs = body.logprobs is not None
        options = body.stream_options
        self._tells_usage = options is not None and bool(options.include_usage)
        self._tells_all = options is not None and bool(options.continuous_usage_stats)
        # Of one prompt it is known before its answers are complete.
        self._num_input_tokens = 0
        self._lengths = [0] * (len(echoes) * self._num_each)  # of texts of tokens so far
        self._finished: dict[int, Answer] = {}

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "text": self._echoes[index // self._num_each] + answer.text,
                "logprobs": self._logprobs(index, answer.logprobs or ()),
                "finish_reason": finish_reason(answer),
            }
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "choices": choices, "usage": self._usage(dict(enumerate(answers)))}

    def write(self, event: Event) -> bytes:
        if isinstance(event, Started):
            self._num_input_tokens = event.num_input_tokens if len(self._echoes) == 1 else 0
            return b"".join(
                self._chunk(index, self._echoes[index // self._num_each])
                for index in range(len(self._lengths))
                if self._echoes[index // self._num_each]
            )
        if isinstance(event, Piece):
            so_far = usage_of(self._num_input_tokens, event.num_tokens)
            return self._chunk(event.index, event.text, event.tokens, total=so_far)
        assert isinstance(event, Finished)
        answer = event.answer
        self._finished[event.index] = answer
        total = usage_of(answer.num_input_tokens, answer.num_output_tokens)
        return self._chunk(event.index, "", reason=finish_reason(answer), total=total)

    def end(self) -> bytes:
        if not self._tells_usage:
            return DONE
        return data({**self._head, "choices": [], "usage": self._usage(self._finished)}) + DONE

    def error(self, error: ApiError) -> bytes:
        return data(error.body())

    def _chunk(
        self,
        index: int,
        text: str,
        tokens: Sequence[TokenLogprob] = (),
        reason: str | None = None,
        total: Mapping[str, Any] | None = None,
    ) -> bytes:
        logprobs = self._logprobs(index, tokens) if tokens else None
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "choices": [choice]}
        if not self._tells_usage:
            return data(chunk)
        return data({**chunk, "usage": total if self._tells_all else None})

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        """By column; `text_offset` counts characters of the answer."""
        if not self._has_logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._lengths[index])
            self._lengths[index] += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [max(token.logprob, LEAST) for token in tokens],
            "top_logprobs": [
                {each.text: max(each.logprob, LEAST) for each in (*token.top, token)}
                for token in tokens
            ],
            "text_offset": offsets,
        }

    def _usage(self, answers: Mapping[int, Answer]) -> dict[str, Any]:
        """Each prompt is counted once for all answers to it."""
        firsts = [answers[index] for index in sorted(answers) if index % self._num_each == 0]
        prompt = sum(answer.num_input_tokens for answer in firsts)
        completion = sum(answer.num_output_tokens for answer in answers.values())
        cached = sum(answer.num_cached_tokens for answer in firsts)
        return usage_of(prompt, completion) | {"prompt_tokens_details": {"cached_tokens": cached}}
