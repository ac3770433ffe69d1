"""Messages of a request as the turns that chat templates know: system, user, assistant.

`developer` is another word for `system`; what is said under either before the conversation begins
is joined. Calls of functions and what they gave are written as text, since no template of the
family has a form for them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..processing.messages import is_blank
from .errors import ApiError
from .schema.parts import (
    AssistantMessage,
    ChatMessage,
    ImagePart,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    VideoPart,
)


@dataclass(frozen=True)
class Media:
    """A picture or a video of a turn, and where the client put it."""

    part: ImagePart | VideoPart
    param: str


@dataclass
class Turn:
    """One turn: texts, pictures and videos in order."""

    role: str
    items: list[str | Media] = field(default_factory=list)
    is_of_tool: bool = False


def turns_of(messages: Sequence[ChatMessage], param: str = "messages") -> list[Turn]:
    """The turns of a conversation.

    Raises:
        ApiError: a message holds nothing, a system message comes late, or the result of a function
            belongs to no call.
    """
    turns: list[Turn] = []
    calls: dict[str, str] = {}
    for index, message in enumerate(messages):
        place = f"{param}[{index}]"
        if isinstance(message, SystemMessage):
            _add_system(turns, _items(message, place), place)
        elif isinstance(message, AssistantMessage):
            items = _items(message, place) + _refusal(message)
            for call in message.tool_calls or ():
                calls[call.id] = call.function.name
                items.append(_call_text(call))
            turns.append(Turn("assistant", items or [""]))
        elif isinstance(message, ToolMessage):
            name = calls.get(message.tool_call_id)
            if name is None:
                raise _error(
                    f"{place}.tool_call_id",
                    "belongs to no call in the messages before it; send the assistant's message "
                    "with its tool_calls, too",
                )
            _add_result(turns, _result(name, _items(message, place)))
        else:
            items = _items(message, place)
            if not items:
                raise _error(f"{place}.content", "is empty; give text, a picture or a video")
            if turns and turns[-1].is_of_tool:
                turns[-1].items += items
                turns[-1].is_of_tool = False
            else:
                turns.append(Turn("user", items))
    _check_last(turns, f"{param}[{len(messages) - 1}]")
    return turns


def _check_last(turns: Sequence[Turn], place: str) -> None:
    """The last turn asks something."""
    if not turns or turns[-1].role != "user":
        raise _error(
            f"{place}.role",
            f"is {turns[-1].role if turns else 'system'}; the last message must be a user's, or "
            "the result of a tool, to be answered",
        )
    if all(isinstance(item, str) and is_blank(item) for item in turns[-1].items):
        raise _error(f"{place}.content", "is empty; give a question or an instruction")


def _add_system(turns: list[Turn], items: list[str | Media], place: str) -> None:
    text = "\n".join(str(item) for item in items)
    if turns and turns[-1].role != "system":
        raise _error(
            place, "is a system message after the conversation began; put it before the first turn"
        )
    if not text.strip():
        return
    if turns:
        turns[0].items = [f"{turns[0].items[0]}\n\n{text}"]
    else:
        turns.append(Turn("system", [text]))


def _result(name: str, items: Sequence[str | Media]) -> list[str | Media]:
    """What a function gave, under its name; texts in a row are one."""
    result: list[str | Media] = []
    for item in items:
        if isinstance(item, str) and result and isinstance(result[-1], str):
            result[-1] += f"\n{item}"
        else:
            result.append(item)
    text = result.pop(0) if result and isinstance(result[0], str) else ""
    return [f"Result of {name}: {text}", *result]


def _add_result(turns: list[Turn], items: list[str | Media]) -> None:
    if turns and turns[-1].is_of_tool:
        turns[-1].items += items
    else:
        turns.append(Turn("user", items, is_of_tool=True))


def _items(message: ChatMessage, place: str) -> list[str | Media]:
    content = message.content
    if content is None:
        return []
    if isinstance(content, str):
        return [_text(content, f"{place}.content")]
    items: list[str | Media] = []
    for index, part in enumerate(content):
        if isinstance(part, TextPart):
            items.append(_text(part.text, f"{place}.content[{index}].text"))
        elif isinstance(part, RefusalPart):
            items.append(_text(part.refusal, f"{place}.content[{index}].refusal"))
        else:
            items.append(Media(part, f"{place}.content[{index}]"))
    return items


def _text(text: str, place: str) -> str:
    """The text, if it can be written as UTF-8: a half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _error(
            place,
            f"has the character {text[error.start]!a} at {error.start}, which is no character by "
            "itself; decode the text with its own encoding",
        ) from None
    return text


def _refusal(message: AssistantMessage) -> list[str | Media]:
    return [message.refusal] if message.refusal and not message.content else []


def _call_text(call: ToolCall) -> str:
    """As the model writes a call itself where its answer is bound to one."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = call.function.arguments
    call_ = {"name": call.function.name, "arguments": arguments}
    return json.dumps(call_, ensure_ascii=False)


def _error(param: str, reason: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{param} {reason}.", param=param)
