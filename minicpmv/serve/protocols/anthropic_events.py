"""An answer as the events of Anthropic's `/v1/messages`, and as the message they add up to."""

import json
from collections.abc import Iterable
from typing import Any

from ...engine.answer import Answer, TokenLogprob

Event = dict[str, Any]


class MessageEvents:
    """The events of one message; `message` is what they have added up to.

    Args:
        message_id: begins with "msg_".
        model: the name that was asked for.
        max_tokens: of the request, to tell its limit from that of the model's context.
    """

    def __init__(self, message_id: str, model: str, max_tokens: int):
        self.message: dict[str, Any] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": message_usage(0, 0, 0),
        }
        self._max_tokens = max_tokens
        self._is_open = False
        self._arguments = ""

    def begin(self, num_input_tokens: int) -> list[Event]:
        self.message["usage"] = message_usage(num_input_tokens, 0, 0)
        message = {**self.message, "content": []}
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def text(self, delta: str, tokens: Iterable[TokenLogprob] = ()) -> list[Event]:
        """More text, in the block that its first piece opens; there is no place for `tokens`."""
        events: list[Event] = []
        if not self._is_open or self._block["type"] != "text":
            events = self._start({"type": "text", "text": ""})
        self._block["text"] += delta
        return [*events, self._delta({"type": "text_delta", "text": delta})]

    def call(self, call_id: str, name: str) -> list[Event]:
        """The begin of a call of a tool."""
        self._arguments = ""
        block_id = call_id.replace("call_", "toolu_", 1)
        return self._start({"type": "tool_use", "id": block_id, "name": name, "input": {}})

    def arguments(self, delta: str) -> list[Event]:
        """More of the input of the call that is open, as JSON text."""
        self._arguments += delta
        return [self._delta({"type": "input_json_delta", "partial_json": delta})]

    def finish(self, answer: Answer) -> list[Event]:
        """The last events, with the reason for the end and the usage."""
        events = [] if self.message["content"] else self._start({"type": "text", "text": ""})
        events += self._stop()
        self.message["stop_reason"], self.message["stop_sequence"] = self._reason(answer)
        self.message["usage"] = message_usage(
            answer.num_input_tokens,
            answer.num_output_tokens,
            getattr(answer, "num_cached_tokens", 0),
        )
        delta = {key: self.message[key] for key in ("stop_reason", "stop_sequence")}
        return [
            *events,
            {"type": "message_delta", "delta": delta, "usage": self.message["usage"]},
            {"type": "message_stop"},
        ]

    @property
    def _block(self) -> dict[str, Any]:
        block: dict[str, Any] = self.message["content"][-1]
        return block

    def _reason(self, answer: Answer) -> tuple[str, str | None]:
        if answer.finish_reason != "stop":
            is_full = answer.finish_reason == "length"
            is_full &= answer.num_output_tokens < self._max_tokens
            return "model_context_window_exceeded" if is_full else "max_tokens", None
        if answer.stop_text is not None:
            return "stop_sequence", answer.stop_text
        if any(block["type"] == "tool_use" for block in self.message["content"]):
            return "tool_use", None
        return "end_turn", None

    def _start(self, block: dict[str, Any]) -> list[Event]:
        events = self._stop()
        self.message["content"].append(block)
        self._is_open = True
        index = len(self.message["content"]) - 1
        return [
            *events,
            {"type": "content_block_start", "index": index, "content_block": {**block}},
        ]

    def _delta(self, delta: dict[str, Any]) -> Event:
        index = len(self.message["content"]) - 1
        return {"type": "content_block_delta", "index": index, "delta": delta}

    def _stop(self) -> list[Event]:
        """End the open block."""
        if not self._is_open:
            return []
        self._is_open = False
        if self._block["type"] == "tool_use":
            self._block["input"] = arguments_of(self._arguments)
        return [{"type": "content_block_stop", "index": len(self.message["content"]) - 1}]


def message_usage(num_input: int, num_output: int, num_cached: int) -> dict[str, int]:
    """Anthropic counts what came from the cache apart from the rest of the prompt."""
    return {
        "input_tokens": num_input - num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": num_cached,
        "output_tokens": num_output,
    }


def arguments_of(arguments: str) -> dict[str, Any]:
    """The arguments of a call; what was cut by length and is no JSON stands under "partial"."""
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        return {"partial": arguments}
    return value if isinstance(value, dict) else {"value": value}
