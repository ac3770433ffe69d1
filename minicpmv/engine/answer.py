"""The result of a request: an answer with its cost, whole or streamed."""

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "time"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer and how likely it was.

    Fields:
        text: of the token alone; a part of a character has the replacement character.
        logprob: the natural logarithm of its probability, after the softmax of the model's own
            logits: before penalties, bias, temperature and what is left out of a draw.
        top: the likeliest tokens at its place, likeliest first; their own `top` is empty.
        part: the bytes of a token that is a part of a character; None: `text` has all of it.
    """

    token_id: int
    text: str
    logprob: float
    top: tuple["TokenLogprob", ...] = ()
    part: bytes | None = None

    @property
    def data(self) -> bytes:
        """Its bytes; those of all tokens, joined, are the text in UTF-8."""
        return self.text.encode() if self.part is None else self.part


class Answer(str):
    """The text of an answer, with its cost. It is a `str`: compare it, join it, write it as JSON.

    Fields:
        text: the same as a plain `str`.
        num_input_tokens: text and visual tokens of the prompt; num_output_tokens: with the
            terminator. num_cached_tokens: of those of the prompt, computed before for another.
        prompt_seconds: from the call to the first token: reading pictures, encoding the prompt,
            and waiting for earlier requests of a batch; queue_seconds: of it, in the queue.
            decode_seconds: from the first token to the last. seconds: from the call to the last.
        finish_reason: "stop", the model ended its answer, or a text of `stop` did; "length",
            `max_new_tokens` or the model's context was reached; "time", `max_time` was reached.
        stop_text: the text of `stop` that ended the answer, if one did.
        token_ids: what the text was made of: with the terminator, and with what wrote a text of
            `stop`.
        logprobs: of each of them, where `logprobs` was asked for.
        has_terminator: whether the last of them is a terminator of the model.
    """

    num_input_tokens: int
    num_output_tokens: int
    prompt_seconds: float
    queue_seconds: float
    decode_seconds: float
    seconds: float
    num_cached_tokens: int
    has_terminator: bool
    finish_reason: FinishReason
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None
    stop_text: str | None

    def __new__(
        cls,
        text: str,
        num_input_tokens: int = 0,
        num_output_tokens: int = 0,
        seconds: float | None = None,
        finish_reason: FinishReason = "stop",
        *,
        prompt_seconds: float = 0.0,
        queue_seconds: float = 0.0,
        decode_seconds: float = 0.0,
        token_ids: Iterable[int] = (),
        logprobs: Iterable[TokenLogprob] | None = None,
        stop_text: str | None = None,
        num_cached_tokens: int = 0,
        has_terminator: bool = False,
    ) -> "Answer":
        answer = super().__new__(cls, text)
        answer.num_input_tokens = num_input_tokens
        answer.num_output_tokens = num_output_tokens
        answer.prompt_seconds = prompt_seconds
        answer.queue_seconds = queue_seconds
        answer.decode_seconds = decode_seconds
        answer.seconds = prompt_seconds + decode_seconds if seconds is None else seconds
        answer.num_cached_tokens = num_cached_tokens
        answer.has_terminator = has_terminator
        answer.finish_reason = finish_reason
        answer.token_ids = tuple(token_ids)
        answer.logprobs = None if logprobs is None else tuple(logprobs)
        answer.stop_text = stop_text
        return answer

    @property
    def text(self) -> str:
        return str(self)

    @property
    def text_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """`logprobs` without that of a terminator."""
        if self.logprobs is None or not self.has_terminator:
            return self.logprobs
        return self.logprobs[:-1]

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first per second of `decode_seconds`; 0 for an answer of one token."""
        if self.decode_seconds <= 0:
            return 0.0
        return max(self.num_output_tokens - 1, 0) / self.decode_seconds


class AnswerStream(Iterator[str]):
    """Pieces of an answer as they are generated; joined, they are the text of `answer`.

    `close()` stops the generation at any time, from any thread; leaving a `with` block does too.
    `answer` is None until the last piece was read. `is_open` says whether there may be more.
    """

    def __init__(
        self,
        pieces: Generator[str | Answer, None, None],
        cancel: Callable[[], None] | None = None,
    ):
        """
        Args:
            cancel: stops what computes the answer; called when nobody reads it any more.
        """
        self._pieces = pieces
        self._cancel = None if cancel is None else weakref.finalize(self, cancel)
        self.answer: Answer | None = None
        self.is_open = True

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except BaseException:  # an interrupt, too: nobody waits any more
            self.close()
            raise
        if isinstance(piece, Answer):
            if self.is_open:
                self.answer = piece
            self.close()
            raise StopIteration
        return piece

    def read(self) -> Answer:
        """The whole answer, once it is complete.

        Raises:
            ValueError: the stream was closed before.
        """
        for _ in self:
            pass
        if self.answer is None:
            raise ValueError("The stream was closed before its answer was complete. Ask again.")
        return self.answer

    def close(self) -> None:
        self.is_open = False
        if self._cancel is not None:
            self._cancel()
        with suppress(ValueError):  # another thread reads it, and comes to its end now
            self._pieces.close()

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
