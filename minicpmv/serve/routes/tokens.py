"""`POST /tokenize` and `POST /detokenize`."""

from typing import Annotated, Any

from fastapi import APIRouter, Request

from ...engine.request import Messages
from ..answering import messages_of
from ..bodies import json_body
from ..errors import ApiError
from ..parameters import fields_of, generation
from ..schema.tokens import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

router = APIRouter(tags=["tokens"])

_SHOWN = ("max_slice_nums", "use_image_id")  # what decides how many tokens a picture has
_OF_CONVERSATIONS = (
    "mm_processor_kwargs",
    "media_io_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
)


@router.post("/tokenize")
async def tokenize(
    request: Request, body: Annotated[TokenizeRequest, json_body(TokenizeRequest)]
) -> TokenizeResponse:
    """Tokens of a text, or of a conversation with those of its pictures."""
    server = request.app.state.server
    card = await server.backend.card(body.model or server.backend.models()[0].name)
    _check(body)
    options: dict[str, Any] = {}
    prompt: Messages | str
    if body.messages is None:
        prompt = body.prompt or ""
    else:
        found = generation(
            {name: value for name, value in fields_of(body).items() if name != "prompt"},
            card,
            server.settings,
            ignored=server.metrics.parameter_ignored,
        )
        options = {name: found[name] for name in _SHOWN if name in found}
        prompt = await messages_of(server, request, body)
    ids = await server.backend.tokenize(
        card.name, prompt, options=options, begins=body.add_special_tokens is not False
    )
    texts = await server.backend.token_texts(card.name, ids) if body.return_token_strs else None
    return TokenizeResponse(
        count=len(ids), max_model_len=card.context, tokens=ids, token_strs=texts
    )


@router.post("/detokenize")
async def detokenize(
    request: Request, body: Annotated[DetokenizeRequest, json_body(DetokenizeRequest)]
) -> DetokenizeResponse:
    """The text of tokens."""
    server = request.app.state.server
    model = body.model or server.backend.models()[0].name
    return DetokenizeResponse(prompt=await server.backend.detokenize(model, body.tokens))


def _check(body: TokenizeRequest) -> None:
    """
    Raises:
        ApiError: there is not one thing to tokenize, or a field is for the other one.
    """
    if (body.prompt is None) == (body.messages is None):
        found = "neither" if body.prompt is None else "both"
        message = f"prompt and messages: {found} was sent; send one of them."
        raise ApiError(400, "invalid_value", message, param="prompt")
    if body.messages is not None:
        return
    for name in _OF_CONVERSATIONS:
        if getattr(body, name) is not None:
            message = f"{name} has no effect without messages; leave it out."
            raise ApiError(400, "invalid_value", message, param=name)
