"""What form a client asks of an answer: any text, what matches a constraint, or calls of functions.

Every protocol asks for it by the fields of a chat completion:

    form = await form_of(body, card, options, settings, ignored)
    job = Job(body.model, form.shown(messages), form.options, ...)
    words, calls = form.said(answer)                 # a whole answer
    reader = form.reader()                           # one that streams, for each `index`
    words, deltas = reader.read(piece.text)
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.constraints import Constraint
from ..engine.request import Messages
from .errors import ApiError
from .jobs import ModelCard
from .parameters import Ignored
from .schema.completions import CompletionRequest
from .schema.openai import ChatRequest
from .structured import constraint_of
from .tools import Call, CallReader, Calls, calls_of, with_instructions


@dataclass(frozen=True)
class Form:
    """The form of the answers to one request.

    Fields:
        options: of the engine, `constraint` among them.
        calls: where functions may be called; None: the answer is text.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    calls: Calls | None = None

    def shown(self, messages: Messages) -> Messages:
        """The conversation with what the model must know of the functions."""
        if self.calls is None:
            return messages
        return with_instructions(messages, self.calls.instructions)

    def reader(self) -> CallReader:
        """Reads an answer as it comes: words, and pieces of calls."""
        return CallReader(True) if self.calls is None else self.calls.reader()

    def said(self, text: str) -> tuple[str, list[Call]]:
        """The words and the calls of a whole answer."""
        return (text, []) if self.calls is None else self.calls.said(text)


async def form_of(
    body: ChatRequest | CompletionRequest,
    card: ModelCard,
    options: Mapping[str, Any],
    settings: Any = None,
    ignored: Ignored | None = None,
) -> Form:
    """The form of the answers to a request; what takes time is done in a thread.

    Args:
        options: of the engine, from `parameters.generation`.
        settings: of the server: `lenient` is read.
        ignored: called with the name of each field that `lenient` lets pass without effect.

    Raises:
        ApiError: a field is not possible, or would have no effect; it names the field.
    """
    chat = body if isinstance(body, ChatRequest) else None
    asks = (body.response_format, body.structured_outputs)
    if asks == (None, None) and (chat is None or not (chat.tools or chat.tool_choice)):
        return Form(options)
    is_lenient = bool(getattr(settings, "lenient", False))

    def asked() -> tuple[Constraint | None, Calls | None]:
        calls = None if chat is None else calls_of(chat, card, is_lenient=is_lenient)
        return constraint_of(body), calls

    constraint, calls = await asyncio.to_thread(asked)
    wants_calls = chat is not None and bool(chat.tools) and chat.tool_choice != "none"
    if wants_calls and calls is None and ignored is not None:
        ignored("tools")
    name = "response_format" if body.structured_outputs is None else "structured_outputs"
    if calls is not None and constraint is not None:
        if not is_lenient:
            raise _refused(name, "has no effect where functions are called; send tool_choice none")
        if ignored is not None:
            ignored(name)
    constraint = constraint if calls is None else calls.constraint
    if constraint is None:
        return Form(options)
    name = name if calls is None else "tool_choice"
    if options.get("num_beams", 1) > 1:
        param = "use_beam_search" if body.num_beams is None else "num_beams"
        raise _refused(param, f"cannot be combined with {name}; leave one of them out")
    if options.get("ignore_eos"):
        raise _refused("ignore_eos", f"cannot be combined with {name}; leave one of them out")
    return Form({**options, "num_beams": 1, "constraint": constraint}, calls)


def _refused(param: str, reason: str) -> ApiError:
    return ApiError(400, "invalid_value", f"{param} {reason}.", param=param)
