"""Many requests at a time; a bad one does not lose the answers to the others."""

import queue
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from .answer import Answer, AnswerStream
from .engine import Engine
from .inputs import Settings
from .limits import QueueFullError
from .request import Messages, messages_of_request

# So many padded batches are read ahead, to put requests of like length together; more pictures are
# never open at a time.
_BATCHES_AHEAD = 8
# What a request can be to blame for: its form, its pictures, its length, the memory it takes.
_REQUEST_ERRORS = (ValueError, TypeError, OSError, RuntimeError)


class BatchError(ValueError):
    """Some requests of a batch could not be answered.

    Attributes:
        answers: one per request, None for those that failed.
        errors: what was wrong, by the number of the request.
    """

    def __init__(self, answers: list[Answer | None], errors: dict[int, Exception]):
        number, error = min(errors.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        others = "" if len(errors) == len(answers) else " The other answers are in `.answers`."
        super().__init__(
            f"{len(errors)} of {len(answers)} requests failed.{others} Request {number}: {reason}"
        )
        self.answers = answers
        self.errors = errors

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.answers, self.errors)


class _Ready(NamedTuple):
    number: int
    messages: Messages
    num_tokens: int
    max_new_tokens: int


def answer_in_batches(
    engine: Engine,
    requests: Sequence[Any],
    with_system: Callable[[Messages], Messages],
    *,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
    options: Mapping[str, Any],
) -> list[Answer]:
    """The answers of `Chat.batch`, in the order of the requests.

    Raises:
        BatchError: some requests could not be answered; it has the answers to the others.
        ValueError: an option is wrong.
    """
    answers: list[Answer | None] = [None] * len(requests)
    errors: dict[int, Exception] = {}
    conversations: dict[int, Messages] = {}
    for index, request in enumerate(requests):
        try:
            messages = engine.processor.question(messages_of_request(request))
            conversations[index] = with_system(messages)
        except _REQUEST_ERRORS as error:
            errors[index] = error
    settings = engine.settings(list(conversations.values()), options)
    answer = _in_padded_batches if engine.uses_generate(settings) else _side_by_side
    with closing(answer(engine, conversations, settings, batch_size)) as all_found:
        for index, found in all_found:
            if isinstance(found, Answer):
                answers[index] = found
            else:
                errors[index] = found
                continue
            if on_progress is not None:
                on_progress(sum(one is not None for one in answers) + len(errors), len(requests))
    if errors:
        raise BatchError(answers, errors) from min(errors.items())[1]
    return [answer for answer in answers if answer is not None]


def _side_by_side(
    engine: Engine, conversations: Mapping[int, Messages], settings: Settings, batch_size: int
) -> Generator[tuple[int, Answer | Exception], None, None]:
    """`batch_size` at a time, the next one as soon as one has ended; yields them as they end."""
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    streams: dict[int, AnswerStream] = {}
    left = deque(conversations)
    try:
        while left or streams:
            while left and len(streams) < batch_size:
                index = left.popleft()
                try:
                    streams[index] = engine.stream(
                        conversations[index],
                        settings,
                        hides=True,
                        on_end=partial(ended.put, index),
                    )
                except QueueFullError as error:
                    if streams:  # of this batch: one of them makes room
                        left.appendleft(index)
                        break
                    yield index, error
                except _REQUEST_ERRORS as error:
                    yield index, error
            if streams:
                index = ended.get()
                try:
                    yield index, streams.pop(index).read()
                except _REQUEST_ERRORS as error:
                    yield index, error
    finally:
        for stream in streams.values():
            stream.close()


def _in_padded_batches(
    engine: Engine, conversations: Mapping[int, Messages], settings: Settings, batch_size: int
) -> Generator[tuple[int, Answer | Exception], None, None]:
    """By `generate`, requests of like length together."""
    numbers, read = list(conversations), settings.after_reading()
    for start in range(0, len(numbers), batch_size * _BATCHES_AHEAD):
        ready = []
        for index in numbers[start : start + batch_size * _BATCHES_AHEAD]:
            try:
                messages = settings.read(conversations[index])
                ready.append(_Ready(index, messages, *engine.measure(messages, read)))
            except _REQUEST_ERRORS as error:
                yield index, error
        for rows in _batches(ready, batch_size):
            try:
                found: list[Any] = engine.answer_all([row.messages for row in rows], read)
            except _REQUEST_ERRORS as error:
                found = [error] * len(rows)
            yield from zip((row.number for row in rows), found, strict=True)


def _batches(ready: list[_Ready], batch_size: int) -> Generator[list[_Ready], None, None]:
    """Requests of like length together; those whose answers must end earlier, by themselves."""
    ready = sorted(ready, key=lambda row: (row.max_new_tokens, row.num_tokens))
    for _, group in groupby(ready, key=lambda row: row.max_new_tokens):
        rows = list(group)
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
