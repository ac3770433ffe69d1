"""A request to Anthropic's `/v1/messages` as a chat completion."""

import json
from typing import Any

from ..schema.anthropic import (
    Base64Source,
    CountTokensRequest,
    ImageBlock,
    Message,
    MessagesRequest,
    TextBlock,
    ToolChoiceTool,
    ToolResultBlock,
    ToolUseBlock,
)
from .names import Names
from .only import Ignored, Only, check_only

_SAME = ("max_tokens", "temperature", "top_p", "top_k", "stream")
_RENAMED = {"stop": "stop_sequences"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

Part = dict[str, Any]


_ONLY: Only = {
    "thinking.type": (("disabled",), "the model answers without thinking"),
    "output_config.effort": ((), "the model answers without thinking"),
    "service_tier": (("auto", "standard_only"), "there is one tier"),
    "speed": (("standard",), "there is one"),
}


def chat_of_messages(
    body: CountTokensRequest, ignored: Ignored | None = None
) -> tuple[dict[str, Any], Names]:
    """The body of a chat completion that asks the same, and where its fields came from.

    Args:
        ignored: called with each field that would have no effect; None: it is an error.

    Raises:
        ApiError: a field would have no effect.
    """
    check_only(body, _ONLY, ignored)
    names = Names(_RENAMED)
    chat: dict[str, Any] = {"model": body.model, "messages": _messages(body, names)}
    if isinstance(body, MessagesRequest):
        chat |= {name: getattr(body, name) for name in _SAME}
        chat |= {name: getattr(body, own) for name, own in _RENAMED.items()}
    chat["mm_processor_kwargs"] = body.mm_processor_kwargs
    if body.output_config is not None and body.output_config.format is not None:
        names.add("response_format", "output_config.format")
        names.add("response_format.json_schema", "output_config.format")
        schema = {"name": "answer", "schema": body.output_config.format.schema_, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    chat |= _tools(body, names)
    return {key: value for key, value in chat.items() if value is not None}, names


def _messages(body: CountTokensRequest, names: Names) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.system:
        content = body.system
        if isinstance(content, str):
            names.add("messages[0].content", "system", is_whole=True)
            messages.append({"role": "system", "content": content})
        else:
            names.add("messages[0].content", "system")
            parts = [{"type": "text", "text": block.text} for block in content]
            messages.append({"role": "system", "content": parts})
    for index, message in enumerate(body.messages):
        _add(messages, message, f"messages[{index}]", names)
    for turn in messages:
        if not turn["content"] and "tool_calls" in turn:
            del turn["content"]
    return messages


def _add(messages: list[dict[str, Any]], message: Message, own: str, names: Names) -> None:
    """One turn, whose results of tools are turns of their own in a chat completion."""
    if isinstance(message.content, str):
        place = _turn(messages, message.role, own, names)
        content = messages[-1]["content"]
        names.add(f"{place}.content[{len(content)}]", f"{own}.content", is_whole=True)
        content.append({"type": "text", "text": message.content})
        return
    if not message.content:
        _turn(messages, message.role, own, names)
    for index, block in enumerate(message.content):
        at = f"{own}.content[{index}]"
        if isinstance(block, ToolResultBlock):
            place = f"messages[{len(messages)}]"
            names.add(place, at)
            content = _result(block, f"{place}.content", f"{at}.content", names)
            turn = {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
            messages.append(turn)
        elif isinstance(block, ToolUseBlock):
            place = _turn(messages, message.role, own, names)
            calls = messages[-1].setdefault("tool_calls", [])
            names.add(f"{place}.tool_calls[{len(calls)}]", at)
            function = {"name": block.name, "arguments": json.dumps(block.input)}
            calls.append({"id": block.id, "type": "function", "function": function})
        else:
            place = _turn(messages, message.role, own, names)
            content = messages[-1]["content"]
            content.append(_part(block, f"{place}.content[{len(content)}]", at, names))


def _turn(messages: list[dict[str, Any]], role: str, own: str, names: Names) -> str:
    """The turn of this role that stands last; turns of one role in a row are one."""
    if not messages or messages[-1]["role"] != role or role == "system":
        names.add(f"messages[{len(messages)}]", own)
        messages.append({"role": role, "content": []})
    return f"messages[{len(messages) - 1}]"


def _result(block: ToolResultBlock, place: str, own: str, names: Names) -> str | list[Part]:
    content = block.content or ""
    error = "Error: " if block.is_error else ""
    if isinstance(content, str):
        return error + content
    parts = [
        _part(each, f"{place}[{index}]", f"{own}[{index}]", names)
        for index, each in enumerate(content)
    ]
    return [{"type": "text", "text": error}, *parts] if error else parts


def _part(block: TextBlock | ImageBlock, place: str, own: str, names: Names) -> Part:
    names.add(place, own)
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    if isinstance(source, Base64Source):
        names.add(f"{place}.image_url", f"{own}.source.data", is_whole=True)
        url = f"data:{source.media_type};base64,{source.data}"
    else:
        names.add(f"{place}.image_url", f"{own}.source.url", is_whole=True)
        url = source.url
    return {"type": "image_url", "image_url": {"url": url}}


def _tools(body: CountTokensRequest, names: Names) -> dict[str, Any]:
    functions = []
    for index, tool in enumerate(body.tools or ()):
        names.add(f"tools[{index}].function", f"tools[{index}]")
        names.add(f"tools[{index}].function.parameters", f"tools[{index}].input_schema")
        fields: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
        fields |= {"description": tool.description, "strict": tool.strict}
        given = {key: value for key, value in fields.items() if value is not None}
        functions.append({"type": "function", "function": given})
    choice = body.tool_choice
    chosen: Any = None
    is_parallel = None
    if choice is not None:
        names.add("tool_choice.function", "tool_choice")
        names.add("parallel_tool_calls", "tool_choice.disable_parallel_tool_use")
        is_single = getattr(choice, "disable_parallel_tool_use", None)
        is_parallel = False if is_single else None
        if isinstance(choice, ToolChoiceTool):
            chosen = {"type": "function", "function": {"name": choice.name}}
        else:
            chosen = _CHOICES[choice.type]
    return {
        "tools": functions if body.tools is not None else None,
        "tool_choice": chosen,
        "parallel_tool_calls": is_parallel,
    }
