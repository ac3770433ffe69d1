"""An answer as the lines of Ollama's stream, and as the object that they add up to."""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ...engine.answer import Answer, TokenLogprob
from ..tools import Call
from .anthropic_events import arguments_of

Line = dict[str, Any]
_NANOSECONDS = 1_000_000_000


class OllamaLines:
    """The lines of one answer.

    Args:
        model: the name that was asked for.
        is_chat: of `/api/chat`, with messages; otherwise of `/api/generate`.
        shows_logprobs: whether the client asked for them.
    """

    def __init__(self, model: str, is_chat: bool, shows_logprobs: bool = False):
        self._model = model
        self._is_chat = is_chat
        self._shows_logprobs = shows_logprobs
        self._begun = time.monotonic()

    def text(self, text: str, tokens: Iterable[TokenLogprob] = ()) -> Line:
        line = {**self._head(), **self._said(text), "done": False}
        if self._shows_logprobs:
            line["logprobs"] = ollama_logprobs(tokens)
        return line

    def calls(self, calls: Sequence[Call]) -> Line:
        message = {"role": "assistant", "content": "", "tool_calls": ollama_calls(calls)}
        return {**self._head(), "message": message, "done": False}

    def last(self, answer: Answer) -> Line:
        """The last line, with what it cost."""
        seconds = max(time.monotonic() - self._begun, answer.seconds)
        return {
            **self._head(),
            **self._said(""),
            "done": True,
            "done_reason": "stop" if answer.finish_reason == "stop" else "length",
            "total_duration": int(seconds * _NANOSECONDS),
            "load_duration": int((seconds - answer.seconds) * _NANOSECONDS),
            "prompt_eval_count": answer.num_input_tokens,
            "prompt_eval_duration": int(answer.prompt_seconds * _NANOSECONDS),
            "eval_count": answer.num_output_tokens,
            "eval_duration": int(answer.decode_seconds * _NANOSECONDS),
        }

    def whole(
        self,
        answer: Answer,
        text: str,
        calls: Sequence[Call] = (),
        tokens: Iterable[TokenLogprob] = (),
    ) -> Line:
        """All of it in one object."""
        line = {**self.last(answer), **self._said(text)}
        if calls:
            line["message"]["tool_calls"] = ollama_calls(calls)
        if self._shows_logprobs:
            line["logprobs"] = ollama_logprobs(tokens)
        return line

    def loaded(self) -> Line:
        """The answer to a request without a question, which only loads the model."""
        return {**self._head(), **self._said(""), "done": True, "done_reason": "load"}

    def _head(self) -> Line:
        return {"model": self._model, "created_at": timestamp(time.time())}

    def _said(self, text: str) -> Line:
        if self._is_chat:
            return {"message": {"role": "assistant", "content": text}}
        return {"response": text}


def ollama_calls(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Their arguments are objects; what was cut by length and is no JSON stands as {"partial"}."""
    return [
        {
            "id": call.id,
            "function": {
                "index": index,
                "name": call.name,
                "arguments": arguments_of(call.arguments),
            },
        }
        for index, call in enumerate(calls)
    ]


def ollama_logprobs(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {**_token(token), "top_logprobs": [_token(each) for each in token.top]} for token in tokens
    ]


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as Ollama writes them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.text,
        "bytes": list(token.data),
        "logprob": token.logprob,
    }
