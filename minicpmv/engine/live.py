"""Answers that are read from an event loop, without a thread for each.

The thread that computes puts tokens into the inbox of the loop, which is woken once a step; they
become text when they are read.
"""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .answer import Answer, TokenLogprob
from .hf import StopWhenSet
from .inbox import Inbox
from .plan import GenerationPlan
from .prompt import Prompt
from .reading import Reading
from .sampling import Choice
from .scheduler import Scheduler
from .sequence import End, Generation

Forward = Callable[[int, StopWhenSet], Generator[str | Answer, None, None]]


@dataclass(frozen=True)
class LivePiece:
    """Text of one answer that no later token can change.

    Fields:
        index: of the answer, from 0.
        tokens: with their log-probabilities where these were asked for; joined, those of the text
            and of what wrote a text of `stop`, without the terminator.
        answer: the whole of it, with its last piece.
        num_tokens: of the answer so far; 0 where `generate` computes it.
    """

    index: int
    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    answer: Answer | None = None
    num_tokens: int = 0


class LiveAnswer(AsyncIterator[LivePiece]):
    """Pieces of one or several answers to a prompt, as they are generated.

    Tokens that came while nobody read are one piece. Whoever stops reading calls `cancel`, or drops
    it; an interrupted wait does neither, and may be taken up again.

    Attributes:
        num_input_tokens: of the prompt.
        answers: None where one is not complete, or was cancelled.
        is_forwarded: whether a thread of its own computes it, beside those of the scheduler.
    """

    def __init__(
        self, parts: "Sequence[_Part]", num_input_tokens: int, loop: asyncio.AbstractEventLoop
    ):
        self.num_input_tokens = num_input_tokens
        self.is_forwarded = False
        self.answers: list[Answer | None] = [None] * len(parts)
        self._loop = loop
        self._parts = list(parts)
        self._open = set(range(len(parts)))
        self._events: deque[tuple[int, Any]] = deque()
        self._ready: deque[LivePiece] = deque()
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._stops = [part.stop for part in parts]
        weakref.finalize(self, _stop_all, self._stops).atexit = False

    @classmethod
    def computed(
        cls,
        scheduler: Scheduler,
        prompt: Prompt,
        plans: Sequence[GenerationPlan],
        begin: float,
        readings: Sequence[Reading],
        loop: asyncio.AbstractEventLoop,
    ) -> "LiveAnswer":
        """Answers by the scheduler; all but the first begin where its prompt is computed."""
        generations: list[Generation] = []
        for plan in plans:
            media = [medium.copy() for medium in prompt.media]
            own = Prompt(prompt.ids, prompt.tokens, media)
            elder = generations[0] if generations else None
            generations.append(Generation(own, plan, begin, elder=elder))
        parts = [
            _Part(generation.cancel, reading, generation)
            for generation, reading in zip(generations, readings, strict=True)
        ]
        live = cls(parts, len(prompt.ids), loop)
        inbox = scheduler.inbox(loop)
        for index, generation in enumerate(generations):
            generation.outbox = _Outbox(inbox, live, index)
        scheduler.submit(*generations)
        return live

    @classmethod
    def forwarded(
        cls,
        stream: Forward,
        num_answers: int,
        num_input_tokens: int,
        loop: asyncio.AbstractEventLoop,
    ) -> "LiveAnswer":
        """Answers that a thread of their own computes, one after the other."""
        stops = [StopWhenSet() for _ in range(num_answers)]
        live = cls([_Part(stop.event.set) for stop in stops], num_input_tokens, loop)
        live.is_forwarded = True
        inbox = Inbox(loop)
        outboxes = [_Outbox(inbox, live, index) for index in range(num_answers)]
        arguments = (stream, stops, outboxes, inbox)
        threading.Thread(target=_forward, args=arguments, name="minicpmv-live", daemon=True).start()
        return live

    @property
    def answer(self) -> Answer | None:
        """The first of `answers`."""
        return self.answers[0]

    async def __anext__(self) -> LivePiece:
        """
        Raises:
            ValueError, RuntimeError: one of the answers failed; the others are cancelled.
        """
        while not self._ready:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._events:
                self._read()
            elif not self._open:
                raise StopAsyncIteration
            else:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
        return self._ready.popleft()

    def cancel(self, index: int | None = None) -> None:
        """Free what computes one of the answers, or all, within a step; called by the loop."""
        for each in [index] if index is not None else list(self._open):
            self._stops[each]()
            self._open.discard(each)
        self._wake()

    def fail(self, error: BaseException) -> None:
        """End all answers that are not complete with an error; any thread may call."""
        _stop_all(self._stops)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if self._open:
            self._receive(min(self._open), error)

    def _receive(self, index: int, event: Any) -> None:
        """An event of one answer; called by the loop."""
        self._events.append((index, event))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _read(self) -> None:
        """Make pieces of all events that are there."""
        touched: dict[int, None] = {}
        try:
            while self._events:
                index, event = self._events.popleft()
                if index not in self._open:
                    continue
                if isinstance(event, BaseException):
                    raise event
                touched[index] = None
                self._parts[index].take(event)
        except BaseException as error:  # of what computes; or a token that has no text
            self._error = error
            _stop_all(self._stops)
            self._open.clear()
            self._events.clear()
        for index in touched:
            piece = self._parts[index].piece(index)
            if piece.answer is not None and index in self._open:
                self.answers[index] = piece.answer
                self._open.discard(index)
            if piece.text or piece.tokens or piece.answer is not None:
                self._ready.append(piece)


class _Part:
    """One of the answers: what has come of it since its last piece."""

    def __init__(
        self,
        stop: Callable[[], None],
        reading: Reading | None = None,
        generation: Generation | None = None,
    ):
        """
        Args:
            reading, generation: where tokens come, not text.
        """
        self.stop = stop
        self._reading = reading
        self._generation = generation
        self._text = ""
        self._tokens: list[TokenLogprob] = []
        self._answer: Answer | None = None

    def take(self, event: Choice | End | str | Answer) -> None:
        if isinstance(event, Answer):
            self._answer, self._tokens = event, list(event.text_logprobs or ())
        elif isinstance(event, str):
            self._text += event
        elif isinstance(event, Choice):
            assert self._reading is not None
            self._text += self._reading.feed(event)
            if event.logprob is not None and not self._reading.is_end(event.token):
                self._tokens.append(self._reading.logprob_of(event))
        else:
            assert self._reading is not None
            assert self._generation is not None
            self._text += self._reading.finish()
            self._answer = self._reading.answer_of(self._generation, event.reason)

    def piece(self, index: int) -> LivePiece:
        """What has come; tokens whose text is held back stay."""
        if not self._text and self._answer is None:
            return LivePiece(index, "")
        number = 0 if self._reading is None else len(self._reading.choices)
        piece = LivePiece(index, self._text, tuple(self._tokens), self._answer, number)
        self._text, self._tokens = "", []
        return piece


class _Outbox:
    """Puts the events of one answer into the inbox of its loop."""

    def __init__(self, inbox: Inbox, live: LiveAnswer, index: int):
        self._inbox = inbox
        self._live = weakref.ref(live)
        self._index = index

    def put(self, event: Any) -> None:
        self._inbox.put(self._deliver, event)

    def _deliver(self, event: Any) -> None:
        live = self._live()
        if live is not None:
            live._receive(self._index, event)


def _forward(
    stream: Forward, stops: Sequence[StopWhenSet], outboxes: Sequence[_Outbox], inbox: Inbox
) -> None:
    """The thread of answers by `generate`."""
    for index, (stop, outbox) in enumerate(zip(stops, outboxes, strict=True)):
        try:
            for event in () if stop.event.is_set() else stream(index, stop):
                outbox.put(event)
                inbox.flush()
        except BaseException as error:  # handed over to the reader, raised there
            outbox.put(error)
            inbox.flush()
            return


def _stop_all(stops: Sequence[Callable[[], None]]) -> None:
    for stop in stops:
        stop()
