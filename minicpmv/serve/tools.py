"""Calls of functions: `tools` to a constraint and a text for the prompt, answers to calls.

No model of the family was trained to call functions. What the client demands is held to by a
schema, and the model is told about the functions in the system message (`Calls.instructions`). It
writes a call as

    {"name": "get_weather", "arguments": {"city": "Paris"}}

| `tool_choice` | the answer is |
|---|---|
| `none`, or `tools` empty or absent | text; the functions are not mentioned |
| a named function | a call of it |
| `required` | a call of one of them; with `parallel_tool_calls: true` a list of 1 to 16 calls |
| `auto`, or absent | text or calls, where the chat template knows tools; else it is refused |
| `allowed_tools` | as its `mode` says, of some of the tools alone; `instructions` name no others |

Earlier calls and their results are written into the conversation as text (`turns.py`): the call as
above, the result after "Result of get_weather:".

Routes use `forms.py`, which knows `response_format`, too.
"""

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..engine.constraints import Constraint
from ..engine.request import Messages
from ..engine.schemas import Schema, subschemas, with_finite_numbers
from .errors import ApiError
from .jobs import ModelCard
from .schema.openai import AllowedToolChoice, AllowedTools, ChatRequest, Function, NamedTool
from .structured import MAX_BYTES, check_schema, closed, made

MAX_CALLS = 16

_NO_ARGUMENTS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
# What stands before the arguments of a call, after what ends the call before it.
_HEAD = re.compile(r'[\[},\s]*\{\s*"name":\s*("(?:[^"\\]|\\.)*"),\s*"arguments":\s*(?=\S)')
_TEXT_START = re.compile(r"\s*[^\s\[{]")


@dataclass(frozen=True)
class Call:
    """A call of a function; `arguments` is JSON as the model wrote it, incomplete where the answer
    was cut."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class CallDelta:
    """A piece of the call `index`; `id` and `name` come with its first piece, which has no
    arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class Calls:
    """What a request wants called.

    Fields:
        instructions: about the functions, for the system message.
        may_be_text: whether the model may answer in words instead.
    """

    constraint: Constraint
    instructions: str
    may_be_text: bool = False

    def reader(self) -> "CallReader":
        """Of one answer."""
        return CallReader(None if self.may_be_text else False)

    def said(self, text: str) -> tuple[str, list[Call]]:
        """The words and the calls of a whole answer; the last call may be incomplete where the
        answer was cut."""
        words, deltas = self.reader().read(text)
        calls: list[Call] = []
        for delta in deltas:
            if delta.id is not None and delta.name is not None:
                calls.append(Call(delta.id, delta.name, ""))
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + delta.arguments)
        return words, calls


def calls_of(body: ChatRequest, card: ModelCard, *, is_lenient: bool = False) -> Calls | None:
    """The calls that a request demands; None: the answer is text. Call it in a thread, as
    `structured.constraint_of`.

    Args:
        is_lenient: functions that the model may call are forgotten where it cannot choose.

    Raises:
        ApiError: a function or the choice is not possible; it names the field.
    """
    choice = body.tool_choice
    functions = [tool.function for tool in body.tools or ()]
    if isinstance(choice, AllowedToolChoice) and functions:
        functions = _allowed(functions, choice.allowed_tools)
        choice = choice.allowed_tools.mode
    if not functions:
        if choice is not None and choice not in ("none", "auto"):
            raise _error("tool_choice", "demands a call, and there are no tools; send some")
        return None
    if choice == "none":
        return None
    _check(functions)
    is_auto = choice is None or choice == "auto"
    if is_auto and not card.supports_tools:
        if is_lenient:
            return None
        raise _error(
            "tool_choice",
            f"is {'absent, which means auto' if choice is None else 'auto'}, and the chat template "
            f"of {card.name} knows no tools, so that the model cannot choose: send 'required', "
            "'none', or {'type': 'function', 'function': {'name': ...}}",
        )
    if isinstance(choice, NamedTool):
        name = choice.function.name
        functions = [function for function in functions if function.name == name]
        if not functions:
            known = ", ".join(tool.function.name for tool in body.tools or ())
            raise _error("tool_choice.function.name", f"is {name!r}; the tools are {known}")
    is_list = bool(body.parallel_tool_calls) and not isinstance(choice, NamedTool)
    arguments = [_arguments(function) for function in functions]
    schema = _schema(functions, arguments, is_list)
    make = _either if is_auto else Constraint.json_schema
    constraint = made(lambda: make(schema), "tools")
    return Calls(constraint, _instructions(functions, arguments, is_list, is_auto), is_auto)


def with_instructions(messages: Messages, instructions: str) -> Messages:
    """The conversation with more in its system message, or with one."""
    if messages and messages[0]["role"] == "system":
        content = messages[0]["content"]
        if isinstance(content, list):
            content = "\n".join(part["text"] for part in content)
        first = {**messages[0], "content": f"{content}\n\n{instructions}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


class CallReader:
    """Text that comes in pieces to pieces of calls.

    Joined, the arguments of a call are the JSON that the model wrote for them.

    Args:
        is_text: whether the answer is words; None: that shows in its first character.

    Attributes:
        num_calls: those that have begun.
    """

    def __init__(self, is_text: bool | None):
        self.num_calls = 0
        self._held = ""  # of what stands between arguments
        self._depth = 0  # in the arguments: brackets that are open
        self._is_in_arguments = self._is_in_string = self._is_escaped = False
        self._is_text = is_text

    def read(self, piece: str) -> tuple[str, list[CallDelta]]:
        """What of the answer these characters settle: words, or pieces of calls."""
        if self._is_text is None:
            piece, self._held = self._held + piece, ""
            if not piece.strip():
                self._held = piece
                return "", []
            self._is_text = _TEXT_START.match(piece) is not None
        return (piece, []) if self._is_text else ("", self._deltas(piece))

    def _deltas(self, text: str) -> list[CallDelta]:
        deltas: list[CallDelta] = []
        while text:
            if self._is_in_arguments:
                end = self._end_of_arguments(text)
                if end:
                    deltas.append(CallDelta(self.num_calls - 1, arguments=text[:end]))
                text = text[end:]
                continue
            self._held += text
            head = _HEAD.match(self._held)
            if head is None:
                break
            text, self._held = self._held[head.end() :], ""
            self._is_in_arguments, self._depth = True, 0
            call_id = f"call_{uuid.uuid4().hex[:24]}"
            deltas.append(CallDelta(self.num_calls, call_id, json.loads(head[1])))
            self.num_calls += 1
        return deltas

    def _end_of_arguments(self, text: str) -> int:
        """Where the arguments end in this text; its length where they go on."""
        for place, character in enumerate(text):
            if self._is_in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._is_in_string = False
            elif character == '"':
                self._is_in_string = True
            elif character in "[{":
                self._depth += 1
            elif character in "]}":
                if self._depth == 0:  # of the call itself
                    self._is_in_arguments = False
                    return place
                self._depth -= 1
        return len(text)


def _allowed(functions: Sequence[Function], allowed: AllowedTools) -> list[Function]:
    """Those that may be called this time, in the order of `tools`."""
    known = [function.name for function in functions]
    names = [tool.function.name for tool in allowed.tools]
    for index, name in enumerate(names):
        if name not in known:
            place = f"tool_choice.allowed_tools.tools[{index}].function.name"
            raise _error(place, f"is {name!r}; the tools are {', '.join(known)}")
    return [function for function in functions if function.name in names]


def _check(functions: Iterable[Function]) -> None:
    names: set[str] = set()
    size = 0
    for index, function in enumerate(functions):
        place = f"tools[{index}].function"
        if function.name in names:
            raise _error(f"{place}.name", f"is {function.name!r} for the second time")
        names.add(function.name)
        parameters = function.parameters
        if parameters is None:
            continue
        param = f"{place}.parameters"
        check_schema(parameters, param)
        if parameters.get("type", "object") != "object":
            raise _error(
                f"{param}.type", f"is {json.dumps(parameters['type'])}; arguments are an object"
            )
        made(lambda schema=parameters: Constraint.json_schema(schema), param)  # type: ignore[misc]
        size += len(json.dumps(parameters, ensure_ascii=False).encode("utf-8", "replace"))
    if size > MAX_BYTES:
        raise _error("tools", f"have schemas of {size} bytes; at most {MAX_BYTES} are taken")


def _arguments(function: Function) -> Schema:
    """The schema of the arguments, which are an object."""
    if function.parameters is None:
        return _NO_ARGUMENTS
    return closed({"type": "object", **function.parameters})


def _schema(functions: list[Function], arguments: list[Schema], is_list: bool) -> Schema:
    """Of the whole answer."""
    calls = []
    definitions = {}
    for index, (function, schema) in enumerate(zip(functions, arguments, strict=True)):
        key = f"arguments{index}"
        definitions[key] = _moved(schema, f"#/$defs/{key}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": function.name},
                    "arguments": {"$ref": f"#/$defs/{key}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    call: Schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if is_list:
        call = {"type": "array", "items": call, "minItems": 1, "maxItems": MAX_CALLS}
    return {**call, "$defs": definitions}


def _moved(schema: Schema, place: str) -> Schema:
    """A copy of a schema that stands elsewhere in a document: its references go along."""
    copy: Schema = json.loads(json.dumps(schema))
    for name in ("$schema", "$id"):
        copy.pop(name, None)
    for part in subschemas(copy):
        target = part.get("$ref")
        if isinstance(target, str) and target.startswith("#"):
            part["$ref"] = place + target[1:]
    return copy


def _either(schema: Schema) -> Constraint:
    """Words or calls: what begins as JSON is a call."""
    compact = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
    written = json.dumps({"x-guidance": compact, **with_finite_numbers(schema)})
    lines = ["start: words | calls", "words: /[^\\s{\\[](.|\\n)*/", f"calls: %json {written}"]
    return Constraint.grammar("\n".join(lines))


def _instructions(
    functions: list[Function], arguments: list[Schema], is_list: bool, is_auto: bool
) -> str:
    """What the model is told."""
    form = '{"name": NAME, "arguments": {...}}'
    form = f"a JSON list of calls [{form}, ...]" if is_list else f"a call {form}"
    how = f"Answer with {form} and nothing else."
    if is_auto:
        how = f"To call, answer with {form} and nothing else; otherwise answer in words."
    lines = [f"You can call functions. {how}"]
    for function, schema in zip(functions, arguments, strict=True):
        described = f": {function.description.strip()}" if function.description else ""
        written = json.dumps(_told(schema), ensure_ascii=False, separators=(",", ":"))
        lines.append(f"\n{function.name}{described}\narguments: {written}")
    return "\n".join(lines)


def _told(schema: Schema) -> Schema:
    """A copy without what tells a model nothing: titles, and that nothing else is allowed."""
    copy: Schema = json.loads(json.dumps(schema))
    for part in subschemas(copy):
        if isinstance(part.get("title"), str):
            del part["title"]
        if part.get("additionalProperties") is False:
            del part["additionalProperties"]
    return copy


def _error(param: str, reason: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{param} {reason}.", param=param)
