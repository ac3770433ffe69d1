"""The chunks of a streamed answer as events."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from ...engine.answer import Answer, FinishReason, TokenLogprob
from ..jobs import Event, Finished, Job, Piece, Started
from .failures import count, finite, gone, nonsense, of_error

_REASONS: dict[str, FinishReason] = {"length": "length"}
_TOKEN_ID = "token_id:"
_INCOMPLETE = "\ufffd"


@dataclass
class _Choice:
    """One answer in the making.

    Fields:
        num_tokens: with the terminator; None where the server never says it.
        num_chunks: with text, which are about as many.
    """

    texts: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    num_tokens: int | None = None
    num_chunks: int = 0
    reason: FinishReason | None = None
    stop_text: str | None = None
    last: float | None = None


class Reader:
    """Reads the stream of one job.

    Attributes:
        has_begun: whether there was text; from then on no other server can answer.
    """

    def __init__(self, job: Job, begin: float, is_chat: bool):
        self.has_begun = False
        self._begin = begin
        self._is_chat = is_chat
        self._num_beams = int(job.options.get("num_beams") or 1)
        self._wants_logprobs = job.options.get("logprobs") is not None
        self._most_top = int(job.options.get("logprobs") or 0)
        self._choices = {index: _Choice() for index in range(job.n)}
        self._is_started = False
        self._num_input_tokens = 0
        self._num_cached_tokens = 0
        self._num_output_tokens: int | None = None  # of all answers
        self._first: float | None = None

    def feed(self, chunk: Any) -> list[Event]:
        """What a chunk says.

        Raises:
            UpstreamError: it is an error, or no chunk.
        """
        if not isinstance(chunk, dict):
            raise nonsense(chunk)
        if isinstance(error := chunk.get("error"), dict):
            code = error.get("code")
            raise of_error(code if isinstance(code, int) else _status_of(error), error)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise nonsense(chunk)
        try:
            self._read_usage(chunk.get("usage"), choices)
            events: list[Event] = []
            if not self._is_started:
                self._is_started = True
                events.append(Started(self._num_input_tokens))
            for each in choices:
                events += self._read(each)
        except (TypeError, KeyError, IndexError, AttributeError, ValueError, ArithmeticError):
            raise nonsense(chunk) from None
        return events

    def _read_usage(self, usage: Any, choices: list[Any]) -> None:
        if not usage:
            return
        self._num_input_tokens = count(usage["prompt_tokens"])
        details = usage.get("prompt_tokens_details") or {}
        self._num_cached_tokens = count(details.get("cached_tokens") or self._num_cached_tokens)
        number = count(usage.get("completion_tokens") or 0)
        if not choices:
            self._num_output_tokens = number
        elif (choice := self._choices.get(choices[0]["index"])) is not None:
            choice.num_tokens = number

    def _read(self, each: dict[str, Any]) -> list[Event]:
        index = each["index"]
        choice = self._choices.get(index)
        if choice is None:  # the other beams
            return []
        text = each["delta"].get("content") if self._is_chat else each.get("text")
        if text is not None and not isinstance(text, str):
            raise ValueError
        tokens = self._tokens(each)
        reason = each.get("finish_reason")
        stopped_by = each.get("stop_reason")
        if reason is not None:
            if reason in ("abort", "error"):
                raise gone(f"gave the answer up ({reason})")
            choice.reason = _REASONS.get(reason, "stop")
            choice.stop_text = stopped_by if isinstance(stopped_by, str) else None
            # Their last token is the terminator, which is no part of the text.
            if choice.reason == "stop" and choice.stop_text is None:
                tokens = tokens[:-1]
        if not text and not tokens:
            return []
        now = time.perf_counter()
        self._first = self._first or now
        choice.last = now
        choice.num_chunks += 1
        choice.texts.append(text or "")
        choice.tokens += tokens
        self.has_begun = True
        return [Piece(index, text or "", tuple(tokens), choice.num_tokens or 0)]

    def _tokens(self, each: dict[str, Any]) -> list[TokenLogprob]:
        logprobs = each.get("logprobs")
        if not logprobs or not self._wants_logprobs:
            return []
        if not self._is_chat:
            return _of_completion(logprobs, self._most_top)
        tokens = [_token(entry, self._most_top) for entry in logprobs.get("content") or ()]
        ids = each.get("token_ids")
        if ids:
            pairs = zip(tokens, ids, strict=True)
            tokens = [replace(token, token_id=int(number)) for token, number in pairs]
        return tokens

    def end(self, reason: FinishReason | None = None) -> list[Event]:
        """The answers, after the last chunk.

        Args:
            reason: why those end that go on: for the time that they take.

        Raises:
            UpstreamError: the stream ended before an answer did.
        """
        if reason is None and any(choice.reason is None for choice in self._choices.values()):
            raise gone("broke off before the answer was complete")
        events: list[Event] = [] if self._is_started else [Started(self._num_input_tokens)]
        for index, choice in self._choices.items():
            events.append(Finished(index, self._answer(choice, choice.reason or reason or "stop")))
        return events

    def _answer(self, choice: _Choice, reason: FinishReason) -> Answer:
        first = self._first or time.perf_counter()
        return Answer(
            "".join(choice.texts),
            num_input_tokens=self._num_input_tokens,
            num_output_tokens=self._tokens_of(choice),
            finish_reason=reason,
            prompt_seconds=first - self._begin,
            decode_seconds=max((choice.last or first) - first, 0.0),
            token_ids=[token.token_id for token in choice.tokens if token.token_id >= 0],
            logprobs=choice.tokens if self._wants_logprobs else None,
            stop_text=choice.stop_text,
            num_cached_tokens=self._num_cached_tokens,
        )

    def _tokens_of(self, choice: _Choice) -> int:
        if choice.num_tokens is not None:
            return choice.num_tokens
        if self._num_output_tokens is not None and len(self._choices) == 1 == self._num_beams:
            return self._num_output_tokens
        return choice.num_chunks


def _status_of(error: dict[str, Any]) -> int:
    """Of an error in a stream of a server of this package, whose codes are words."""
    known = {"unavailable": 503, "queue_full": 429, "internal_error": 500}
    return known.get(str(error.get("code")), 500)


def _token(entry: dict[str, Any], most: int, is_top: bool = False) -> TokenLogprob:
    token, data = entry["token"], entry.get("bytes")
    number = -1
    if token.startswith(_TOKEN_ID):
        number = int(token.removeprefix(_TOKEN_ID))
        token = bytes(data or ()).decode("utf-8", "replace")
    top = () if is_top else tuple(_token(each, 0, True) for each in entry["top_logprobs"][:most])
    part = bytes(data) if data and _INCOMPLETE in token else None
    return TokenLogprob(number, token, finite(entry["logprob"]), top, part)


def _of_completion(logprobs: dict[str, Any], most: int) -> list[TokenLogprob]:
    found = []
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True):
        likeliest = sorted((top or {}).items(), key=lambda item: -item[1])[:most]
        beside = tuple(TokenLogprob(-1, text, finite(each)) for text, each in likeliest)
        found.append(TokenLogprob(-1, token, 0.0 if value is None else finite(value), beside))
    return found
