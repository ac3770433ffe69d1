"""A request to Ollama's `/api/chat` or `/api/generate` as a chat completion."""

import json
from collections.abc import Collection
from typing import Any

from ..errors import ApiError
from ..schema.ollama import ChatRequest, GenerateRequest, GenerationRequest, Message, Options
from .names import Names
from .only import Ignored, Only, check_only

LATEST = ":latest"
_OPTIONS = {
    "temperature": "temperature",
    "seed": "seed",
    "max_tokens": "num_predict",
    "stop": "stop",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}

_ONLY: Only = {
    "think": ((False,), "the model answers without thinking"),
    "options.repeat_last_n": ((-1, 0), "the penalty counts all tokens (-1) or none (0)"),
    "options.tfs_z": ((1.0,), "it is not there"),
    "options.typical_p": ((1.0,), "it is not there"),
    "options.mirostat": ((0,), "it is not there"),
    "suffix": (("",), "the model writes answers, not what stands between two texts"),
    "template": (("",), "the model has its own"),
    "context": (([],), "nothing of earlier requests is kept; ask /api/chat with all messages"),
}


def model_name(name: str, known: Collection[str]) -> str:
    """The name without the tag that Ollama's clients put behind it, where that is served."""
    bare = name.removesuffix(LATEST)
    return bare if name not in known and bare in known else name


def tagged(name: str) -> str:
    """The name as Ollama lists it."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def chat_of_ollama(
    body: ChatRequest | GenerateRequest, ignored: Ignored | None = None
) -> tuple[dict[str, Any], Names]:
    """The body of a chat completion that asks the same, and where its fields came from.

    Args:
        ignored: called with each field that would have no effect; None: it is an error.

    Raises:
        ApiError: a field would have no effect.
    """
    check_only(body, _ONLY, ignored)
    names = Names({chat: f"options.{own}" for chat, own in _OPTIONS.items()})
    chat: dict[str, Any] = {"model": body.model, "stream": body.stream is not False}
    if isinstance(body, ChatRequest):
        chat["messages"] = _messages(body, names)
        chat |= _tools(body, names)
    else:
        chat["messages"] = _prompt(body, names)
    chat |= options_of(body)
    chat |= _format(body, names)
    if body.logprobs:
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    elif body.top_logprobs:
        message = f"top_logprobs is {body.top_logprobs} without logprobs; set `logprobs` to true."
        raise ApiError(400, "invalid_value", message, param="top_logprobs")
    return {key: value for key, value in chat.items() if value is not None}, names


def options_of(body: GenerationRequest) -> dict[str, Any]:
    """The options of sampling, by the names of a chat completion."""
    given = body.options or Options.model_validate({})
    options = {chat: getattr(given, own) for chat, own in _OPTIONS.items()}
    if given.num_predict is not None and given.num_predict < 0:
        if given.num_predict < -2:
            message = f"options.num_predict is {given.num_predict}; expected 1 or more, or -1."
            raise ApiError(400, "invalid_value", message, param="options.num_predict")
        del options["max_tokens"]
    if given.repeat_last_n == 0:
        del options["repetition_penalty"]
    if options.get("stop") == []:
        del options["stop"]
    return options


def _messages(body: ChatRequest, names: Names) -> list[dict[str, Any]]:
    messages = []
    ids: list[str] = []  # of calls that have no result yet
    for index, message in enumerate(body.messages or ()):
        turn = _turn(message, f"messages[{index}]", names)
        for call in turn.get("tool_calls", ()):
            call["id"] = call["id"] or f"call_{index}_{len(ids)}"
            ids.append(call["id"])
        if message.role == "tool":
            # Results have no id: they come in the order of the calls.
            known = message.tool_call_id in ids
            place = ids.index(message.tool_call_id) if known and message.tool_call_id else 0
            turn["tool_call_id"] = ids.pop(place) if ids else message.tool_call_id or "call"
        messages.append(turn)
    return messages


def _turn(message: Message, own: str, names: Names) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role}
    if message.images:
        parts = _pictures(message.images, own, own, names)
        if message.content:
            names.add(f"{own}.content[{len(parts)}]", f"{own}.content", is_whole=True)
            parts.append({"type": "text", "text": message.content})
        turn["content"] = parts
    elif message.content or not message.tool_calls:
        turn["content"] = message.content or ""
    calls = []
    for index, call in enumerate(message.tool_calls or ()):
        names.add(f"{own}.tool_calls[{index}].function", f"{own}.tool_calls[{index}].function")
        arguments = json.dumps(call.function.arguments)
        function = {"name": call.function.name, "arguments": arguments}
        calls.append({"id": call.id, "type": "function", "function": function})
    return turn | ({"tool_calls": calls} if calls else {})


def _prompt(body: GenerateRequest, names: Names) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    names.add("messages", "prompt", is_whole=True)
    if body.system:
        names.add("messages[0].content", "system", is_whole=True)
        messages.append({"role": "system", "content": body.system})
    place = f"messages[{len(messages)}]"
    prompt = body.prompt or ""
    if body.images:
        parts = _pictures(body.images, place, "", names)
        names.add(f"{place}.content[{len(parts)}]", "prompt", is_whole=True)
        return [*messages, {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
    names.add(f"{place}.content", "prompt", is_whole=True)
    return [*messages, {"role": "user", "content": prompt}]


def _pictures(images: list[str], place: str, own: str, names: Names) -> list[dict[str, Any]]:
    """Pictures in base64 as parts; Ollama's clients send no more than that."""
    parts = []
    for index, data in enumerate(images):
        at = f"{own}.images[{index}]" if own else f"images[{index}]"
        names.add(f"{place}.content[{index}]", at, is_whole=True)
        if data.startswith(("http://", "https://", "file://")):
            message = f"{at} is an address; expected the bytes of a picture in base64."
            raise ApiError(400, "invalid_image", message, param=at)
        url = data if data.startswith("data:") else f"data:image/png;base64,{data}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _tools(body: ChatRequest, names: Names) -> dict[str, Any]:
    """`tools: []` is what clients send who have none."""
    functions = []
    for index, tool in enumerate(body.tools or ()):
        names.add(f"tools[{index}].function", f"tools[{index}].function")
        functions.append(
            {"type": "function", "function": tool.function.model_dump(exclude_none=True)}
        )
    return {"tools": functions} if functions else {}


def _format(body: GenerationRequest, names: Names) -> dict[str, Any]:
    if not body.format:
        return {}
    names.add("response_format", "format")
    names.add("response_format.json_schema", "format", is_whole=False)
    names.add("response_format.json_schema.schema", "format")
    if body.format == "json":
        return {"response_format": {"type": "json_object"}}
    schema = {"name": "answer", "schema": body.format, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
