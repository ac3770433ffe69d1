"""Ollama's `/api`: the ways of asking, and what its clients want to know of the models."""

import hashlib
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ...version import VERSION
from ..bodies import json_body
from ..errors import ApiError
from ..jobs import Event, Finished, ModelCard, Piece, Started
from ..protocols.ask import Question, answer, answer_in_parts, ignored_of, read
from ..protocols.ollama_answers import OllamaLines, timestamp
from ..protocols.ollama_request import chat_of_ollama, model_name, tagged
from ..registry import unknown_model
from ..schema.ollama import ChatRequest, GenerateRequest, ShowRequest
from ..sse import NDJSON

router = APIRouter(tags=["ollama"])

# Defaults of a model, and what Ollama calls them.
_PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "repetition_penalty": "repeat_penalty",
    "max_new_tokens": "num_predict",
}
_MISSING = {
    "embed": "These models answer questions and have no embeddings.",
    "embeddings": "These models answer questions and have no embeddings.",
    **dict.fromkeys(
        ("pull", "push", "create", "copy", "delete"),
        "The models are those that the server was started with: minicpmv serve MODEL ...",
    ),
}


@router.post("/api/chat", response_model=None)
async def chat(request: Request, body: Annotated[ChatRequest, json_body(ChatRequest)]) -> Response:
    """Answer a conversation: as lines of JSON, or with `stream: false` as one object."""
    return await _answer(request, body, has_question=bool(body.messages))


@router.post("/api/generate", response_model=None)
async def generate(
    request: Request, body: Annotated[GenerateRequest, json_body(GenerateRequest)]
) -> Response:
    """Answer one question: as lines of JSON, or with `stream: false` as one object."""
    return await _answer(request, body, has_question=bool(body.prompt or body.images))


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """All models, loaded or not."""
    return {"models": [_listed(card) for card in request.app.state.server.backend.models()]}


@router.get("/api/ps")
async def loaded(request: Request) -> dict[str, Any]:
    """The models that are in memory; they stay there as long as there is room."""
    cards = request.app.state.server.backend.models()
    return {
        "models": [
            _listed(card)
            | {
                "expires_at": "9999-12-31T23:59:59Z",
                "size": card.memory_bytes or 0,
                "size_vram": (card.memory_bytes or 0) if card.is_on_gpu else 0,
                "context_length": card.context or 0,
            }
            for card in cards
            if card.is_loaded
        ]
    }


@router.post("/api/show")
async def show(
    request: Request, body: Annotated[ShowRequest, json_body(ShowRequest)]
) -> dict[str, Any]:
    """What is known of one model."""
    name = body.model or body.name
    if name is None:
        raise ApiError(400, "missing_required_parameter", "model is missing.", param="model")
    card = _card(request, name)
    info: dict[str, Any] = {"general.architecture": "minicpmv", "general.basename": card.name}
    if card.context is not None:
        info["minicpmv.context_length"] = card.context
    given = {own: card.defaults.get(name) for name, own in _PARAMETERS.items()}
    parameters = [f"{own} {value}" for own, value in given.items() if value is not None]
    return {
        "modelfile": f"FROM {card.name}",
        "parameters": "\n".join(parameters),
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": info,
        "capabilities": ["completion", *(["vision"] if card.supports_images is not False else [])],
        "modified_at": timestamp(card.created),
    }


@router.get("/api/version")
async def version() -> dict[str, str]:
    """The version of the package, not that of an Ollama."""
    return {"version": VERSION}


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def root() -> Response:
    """What clients ask to see whether there is a server."""
    return PlainTextResponse("minicpmv is running")


async def missing(request: Request) -> Response:
    """The rest of Ollama's `/api`; clients are told why, and not to try again."""
    path = request.scope["path"]
    reason = _MISSING[path.rpartition("/")[2]]
    raise ApiError(400, "not_supported", f"{path} is not supported. {reason}")


for _name in _MISSING:
    _methods = ["DELETE"] if _name == "delete" else ["POST"]
    router.add_api_route(f"/api/{_name}", missing, methods=_methods, include_in_schema=False)


async def _answer(
    request: Request, body: ChatRequest | GenerateRequest, has_question: bool
) -> Response:
    asked_name = body.model
    body.model = _card(request, asked_name).name
    lines = OllamaLines(asked_name, isinstance(body, ChatRequest), bool(body.logprobs))
    if not has_question:  # clients ask so for the model to be loaded
        if body.keep_alive in (0, "0", "0s"):  # and so for it to be unloaded
            message = "keep_alive is 0; models stay loaded as long as there is memory."
            raise ApiError(400, "not_supported", message, param="keep_alive")
        await request.app.state.server.backend.card(body.model)
        return JSONResponse(lines.loaded())
    if isinstance(body, GenerateRequest) and body.raw:
        question = await _raw(request, body)
    else:
        question = await _of_template(request, body)
    if body.stream is not False:
        return answer_in_parts(request, question, OllamaForm(lines, question))
    only = await answer(request, question)
    words, calls = question.form.said(only.text)
    return JSONResponse(lines.whole(only, words, calls, only.logprobs or ()))


async def _of_template(request: Request, body: ChatRequest | GenerateRequest) -> Question:
    try:
        return await read(request, *chat_of_ollama(body, ignored_of(request)), must_fit=False)
    except ApiError as error:
        if error.param != "tool_choice":  # which these clients cannot send
            raise
        raise ApiError(
            400,
            "invalid_value",
            f"tools has no effect: the chat template of {body.model} knows no tools. Leave it out, "
            "or send format with the schema of what you want.",
            param="tools",
        ) from None


async def _raw(request: Request, body: GenerateRequest) -> Question:
    """A prompt that no template is put around."""
    for name in ("system", "images", "format"):
        if getattr(body, name):
            message = f"{name} has no effect on a raw prompt; leave it out, or raw."
            raise ApiError(400, "invalid_value", message, param=name)
    question = await read(request, *chat_of_ollama(body, ignored_of(request)), must_fit=False)
    return replace(question, job=replace(question.job, prompt=body.prompt or ""))


class OllamaForm:
    """How these routes write an answer in parts: a line of JSON each.

    Calls of functions come with the last words, since Ollama's have whole arguments.
    """

    media_type = NDJSON
    keep_alive = b""  # there is no line that means nothing

    def __init__(self, lines: OllamaLines, question: Question):
        self._lines = lines
        self._form = question.form
        self._reader = question.form.reader()
        self._said = ""

    def write(self, event: Event) -> bytes:
        if isinstance(event, Started):
            return b""
        if isinstance(event, Piece):
            self._said += event.text
            words, _ = self._reader.read(event.text)
            shows = words or event.tokens
            return _line(self._lines.text(words, event.tokens)) if shows else b""
        assert isinstance(event, Finished)
        last = _line(self._lines.last(event.answer))
        _, calls = self._form.said(self._said)
        return _line(self._lines.calls(calls)) + last if calls else last

    def end(self) -> bytes:
        return b""

    def error(self, error: ApiError) -> bytes:
        return _line({"error": error.message})


def _line(value: dict[str, Any]) -> bytes:
    return to_json(value) + b"\n"


_DETAILS = {
    "parent_model": "",
    "format": "safetensors",
    "family": "minicpmv",
    "families": ["minicpmv"],
    "parameter_size": "",
    "quantization_level": "",
}


def _listed(card: ModelCard) -> dict[str, Any]:
    """A model as the lists have it; the digest is that of its name, and a size that is not known is
    0."""
    name = tagged(card.name)
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(card.created),
        "size": card.file_bytes or 0,
        "digest": hashlib.sha256(card.name.encode()).hexdigest(),
        "details": _DETAILS,
    }


def _card(request: Request, name: str) -> ModelCard:
    """
    Raises:
        ApiError: no model is served under this name, with ":latest" or without.
    """
    cards = {card.name: card for card in request.app.state.server.backend.models()}
    found = cards.get(model_name(name, cards))
    if found is None:
        raise unknown_model(name, list(cards))
    return found
