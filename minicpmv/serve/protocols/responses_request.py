"""A request to `/v1/responses` as a chat completion."""

from typing import Any

from ..errors import ApiError
from ..schema.responses import (
    AllowedTools,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputMessage,
    InputPart,
    InputText,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedFunction,
    Refusal,
    ResponsesRequest,
)
from .names import Names
from .only import Ignored, Only, check_only

LOGPROBS = "message.output_text.logprobs"
_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "stream",
    "mm_processor_kwargs",
    "media_io_kwargs",
)
_RENAMED = {"max_completion_tokens": "max_output_tokens"}
_MOVED = {"messages": "input", "response_format": "text.format"}
_MOVED |= {"response_format.json_schema": "text.format"}
# What `include` names of items that this server never makes is left out in any case.
_EMPTY = {
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
}
_STATELESS = (
    "This server is stateless: it keeps no responses. Send the whole conversation in `input`."
)


_ONLY: Only = {
    "store": ((False,), "this server is stateless and keeps no responses"),
    "truncation": (("disabled",), "the beginning of a long conversation is never left out"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "text.verbosity": (("medium",), "ask for it in the prompt"),
    "reasoning.effort": (("none",), "the model answers without reasoning"),
    "reasoning.summary": ((), "the model answers without reasoning"),
    "stream_options.include_obfuscation": ((False,), "the pieces are sent as they are"),
}


def chat_of_responses(
    body: ResponsesRequest, ignored: Ignored | None = None
) -> tuple[dict[str, Any], Names]:
    """The body of a chat completion that asks the same, and where its fields came from.

    Args:
        ignored: called with each field that would have no effect; None: it is an error.

    Raises:
        ApiError: a field would have no effect, or needs a memory of earlier requests.
    """
    check_only(body, _ONLY, ignored)
    check_stateless(body)
    names = Names(_RENAMED | _MOVED)
    chat: dict[str, Any] = {"model": body.model, "messages": _messages(body, names)}
    chat |= {name: getattr(body, name) for name in _SAME}
    chat |= {name: getattr(body, own) for name, own in _RENAMED.items()}
    chat |= _logprobs(body)
    if body.text is not None and body.text.format is not None:
        chat["response_format"] = _format(body.text.format)
    chat |= _tools(body, names)
    return {key: value for key, value in chat.items() if value is not None}, names


def check_stateless(body: ResponsesRequest) -> None:
    """
    Raises:
        ApiError: a field needs a memory of earlier requests.
    """
    asked: dict[str, Any] = {"background": body.background}
    asked |= {"previous_response_id": body.previous_response_id}
    asked |= {"conversation": body.conversation, "prompt": body.prompt}
    for name, value in asked.items():
        if value is not None and value is not False:
            message = f"{name} is not supported. {_STATELESS}"
            raise ApiError(400, "unsupported_parameter", message, param=name)


def _messages(body: ResponsesRequest, names: Names) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions is not None:
        names.add("messages[0].content", "instructions", is_whole=True)
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        names.add(f"messages[{len(messages)}].content", "input", is_whole=True)
        return [*messages, {"role": "user", "content": body.input}]
    for index, item in enumerate(body.input):
        own = f"input[{index}]"
        if isinstance(item, FunctionCall):
            _add_call(messages, item, own, names)
            continue
        place = f"messages[{len(messages)}]"
        names.add(place, own)
        if isinstance(item, FunctionCallOutput):
            names.add(f"{place}.content", f"{own}.output")
            content = _content(item.output, f"{place}.content", f"{own}.output", names)
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
        elif isinstance(item, InputMessage):
            content = _content(item.content, f"{place}.content", f"{own}.content", names)
            messages.append({"role": item.role, "content": content})
        else:
            message = (
                f"{own} refers to an item of an earlier response. {_STATELESS} Clients that refer "
                "to items send them again when they are told not to store (store: false)."
            )
            raise ApiError(400, "unsupported_parameter", message, param=own)
    return messages


def _add_call(messages: list[dict[str, Any]], item: FunctionCall, own: str, names: Names) -> None:
    """A call belongs to the turn of the assistant before it."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    calls = messages[-1].setdefault("tool_calls", [])
    names.add(f"messages[{len(messages) - 1}].tool_calls[{len(calls)}]", own)
    names.add(f"messages[{len(messages) - 1}].tool_calls[{len(calls)}].function", own)
    function = {"name": item.name, "arguments": item.arguments}
    calls.append({"id": item.call_id, "type": "function", "function": function})


def _content(
    content: str | list[InputPart], place: str, own: str, names: Names
) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(content):
        names.add(f"{place}[{index}]", f"{own}[{index}]")
        if isinstance(part, InputText):
            parts.append({"type": "text", "text": part.text})
            continue
        if isinstance(part, Refusal):
            parts.append({"type": "refusal", "refusal": part.refusal})
            continue
        kind = "image_url" if isinstance(part, InputImage) else "video_url"
        url = {"url": part.image_url if isinstance(part, InputImage) else part.video_url}
        if isinstance(part, InputImage) and part.detail is not None:
            names.add(f"{place}[{index}].image_url.detail", f"{own}[{index}].detail")
            url["detail"] = part.detail
        names.add(f"{place}[{index}].{kind}", f"{own}[{index}].{kind}", is_whole=True)
        parts.append({"type": kind, kind: url} | ({"uuid": part.uuid} if part.uuid else {}))
    return parts


def _logprobs(body: ResponsesRequest) -> dict[str, Any]:
    asked = body.include or []
    unknown = next((name for name in asked if name not in _EMPTY | {LOGPROBS}), None)
    if unknown is not None:
        message = f"include has {unknown!r}; expected {LOGPROBS!r}, or to leave it out."
        raise ApiError(400, "invalid_value", message, param="include")
    if body.top_logprobs is None and LOGPROBS not in asked:
        return {}
    return {"logprobs": True, "top_logprobs": body.top_logprobs or 0}


def _format(asked: Any) -> dict[str, Any]:
    if isinstance(asked, JsonSchemaFormat):
        fields: dict[str, Any] = {"name": asked.name, "schema": asked.schema_}
        fields |= {"description": asked.description, "strict": asked.strict}
        given = {key: value for key, value in fields.items() if value is not None}
        return {"type": "json_schema", "json_schema": given}
    return {"type": "json_object" if isinstance(asked, JsonObjectFormat) else "text"}


def _tools(body: ResponsesRequest, names: Names) -> dict[str, Any]:
    """Tools and their choice; of tools of which some are allowed, the others are left out."""
    tools = list(enumerate(body.tools or []))
    choice: Any = body.tool_choice
    if isinstance(choice, AllowedTools):
        allowed = [each.name for each in choice.tools]
        known = [tool.name for _, tool in tools]
        missing = next((name for name in allowed if name not in known), None)
        if missing is not None or not allowed:
            found = f"has {missing!r}, which is not in `tools`" if missing else "is empty"
            message = f"tool_choice.tools {found}; expected some of {', '.join(known) or 'none'}."
            raise ApiError(400, "invalid_value", message, param="tool_choice.tools")
        tools = [(index, tool) for index, tool in tools if tool.name in allowed]
        choice = choice.mode
    elif isinstance(choice, NamedFunction):
        names.add("tool_choice.function", "tool_choice")
        choice = {"type": "function", "function": {"name": choice.name}}
    functions = []
    for place, (index, tool) in enumerate(tools):
        names.add(f"tools[{place}]", f"tools[{index}]")
        names.add(f"tools[{place}].function", f"tools[{index}]")
        fields = tool.model_dump(exclude_none=True, exclude={"type"})
        functions.append({"type": "function", "function": fields})
    return {"tools": functions if body.tools is not None else None, "tool_choice": choice}
