"""`POST /v1/decisions`: questions about text and pictures, answered with probabilities."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from ...decisions.decision import Decision
from ...engine.answer import Answer
from ..answering import Interruptible, counting, messages_of
from ..bodies import json_body, validate
from ..errors import ApiError
from ..jobs import DecisionJob, Finished
from ..parameters import media_options
from ..protocols.decisions import answers_of, asked_of, usage_of
from ..protocols.responses_request import chat_of_responses
from ..schema.decisions import DecisionsRequest
from ..schema.openai import ChatRequest
from ..schema.responses import ResponsesRequest

router = APIRouter(tags=["decisions"])

_NOT_ASKING = ("assistant", "system", "developer")
_STAND_IN = "?"  # for the questions, while the conversation before them is read


@router.post("/v1/decisions", response_model=None)
async def decisions(
    request: Request, body: Annotated[DecisionsRequest, json_body(DecisionsRequest)]
) -> Response:
    """Decide each question by the probabilities of whole answers; nothing is generated.

    `probabilities` are those among the choices, calibrated where the server has a calibration for
    them (`calibrated`); `mass` is the probability of all choices together, and `confidence` that of
    the choice, among everything that the model could answer.
    """
    server = request.app.state.server
    asked = asked_of(body)
    given = ResponsesRequest.model_construct(
        model=body.model, input=body.input, mm_processor_kwargs=body.mm_processor_kwargs
    )
    fields, names = chat_of_responses(given)
    # What the assistant said last may be what is decided about.
    is_answered = fields["messages"][-1:] and fields["messages"][-1]["role"] in _NOT_ASKING
    if is_answered:
        fields["messages"].append({"role": "user", "content": _STAND_IN})
    with names.errors():
        chat = validate(ChatRequest, fields)
        await server.backend.card(chat.model)
        messages = await messages_of(server, request, chat)
        if is_answered:
            del messages[-1]
        shown = media_options(chat)
        options = {"max_slice_nums": shown.max_slice_nums, "use_image_id": shown.use_image_id}
        job = DecisionJob(
            body.model,
            messages,
            [each.question for each in asked],
            {name: value for name, value in options.items() if value is not None},
            request.state.record.request_id,
        )
        found = await _decided(request, job)
    return JSONResponse(
        {"model": body.model, "answers": answers_of(asked, found), "usage": usage_of(found)}
    )


async def _decided(request: Request, job: DecisionJob) -> Sequence[Decision]:
    """The decisions, told to the log and the metrics.

    Raises:
        ApiError: the backend refuses the job, or the server stops before it is done.
        ClientGoneError: nobody waits any more.
    """
    server, record = request.app.state.server, request.state.record
    with counting(server, record, job.model) as metric:
        async with Interruptible(server, request.receive), _limit(server.settings.timeout):
            found: Sequence[Decision] = await server.backend.decide(job)
        usage: dict[str, Any] = usage_of(found)
        record.num_input_tokens, record.num_output_tokens = usage["input_tokens"], 0
        metric.event(Finished(0, Answer("", num_input_tokens=usage["input_tokens"])))
    return found


@asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    """A time limit.

    Raises:
        ApiError: it has passed. The client is not to try again: that would take as long.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ApiError(
            400,
            "deadline_exceeded",
            f"The decisions took longer than {seconds:g} s (--timeout of this server). Ask fewer "
            "questions.",
            param="questions",
        ) from None
