"""Many requests at a time; a bad one does not lose the answers to the others."""

import queue
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from .answer import Answer, AnswerStream
from .engine import Engine
from .inputs import Settings
from .limits import QueueFullError
from .request import Messages, messages_of_request

# So many padded batches are read ahead, to put requests of like length together; more pictures are
# never open at a time.
_BATCHES_AHEAD = 8
# What a request can be to blame for: its form, its pictures, its length, the memory it takes.
REQUEST_ERRORS = (ValueError, TypeError, OSError, RuntimeError)
Key = TypeVar("Key", bound=Hashable)
Prepare = Callable[[], tuple[Messages, Settings]]


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
    number: Any
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
    found: Generator[tuple[int, Answer | Exception], None, None]
    conversations: dict[int, Messages] = {}
    for index, request in enumerate(requests):
        try:
            messages = engine.processor.question(messages_of_request(request))
            conversations[index] = with_system(messages)
        except REQUEST_ERRORS as error:
            errors[index] = error
    settings = engine.settings(list(conversations.values()), options)
    if engine.uses_generate(settings):
        found = in_padded_batches(engine, conversations, settings, batch_size)
    else:
        asked = ((index, partial(_pair, each, settings)) for index, each in conversations.items())
        found = side_by_side(engine, asked, batch_size)
    with closing(found) as all_found:
        for index, answer in all_found:
            if isinstance(answer, Answer):
                answers[index] = answer
            else:
                errors[index] = answer
                continue
            if on_progress is not None:
                on_progress(sum(one is not None for one in answers) + len(errors), len(requests))
    if errors:
        raise BatchError(answers, errors) from min(errors.items())[1]
    return [each for each in answers if each is not None]


def side_by_side(
    engine: Engine, requests: Iterable[tuple[Key, Prepare] | None], batch_size: int
) -> Generator[tuple[Key, Answer | Exception], None, None]:
    """`batch_size` at a time, the next one as soon as one has ended; yields them as they end.

    Args:
        requests: read as there is room for them, each with what makes its messages and settings.
            None: there will be more, but not yet; it is asked for the next one at once only where
            nothing is being answered.
    """
    ended: queue.SimpleQueue[Key] = queue.SimpleQueue()
    streams: dict[Key, AnswerStream] = {}
    left, again = iter(requests), deque[tuple[Key, Prepare]]()
    has_more = True
    try:
        while has_more or streams or again:
            while (has_more or again) and len(streams) < batch_size:
                try:
                    request = again.popleft() if again else next(left)
                except StopIteration:
                    has_more = False
                    break
                if request is None:
                    if streams:
                        break
                    continue
                key, prepare = request
                try:
                    messages, settings = prepare()
                    streams[key] = engine.stream(
                        messages, settings, hides=True, on_end=partial(ended.put, key)
                    )
                except QueueFullError as error:
                    if streams:  # of this batch: one of them makes room
                        again.append(request)
                        break
                    yield key, error
                except REQUEST_ERRORS as error:
                    yield key, error
            if streams:
                key = ended.get()
                try:
                    yield key, streams.pop(key).read()
                except REQUEST_ERRORS as error:
                    yield key, error
    finally:
        for stream in streams.values():
            stream.close()


def _pair(messages: Messages, settings: Settings) -> tuple[Messages, Settings]:
    return messages, settings


def in_padded_batches(
    engine: Engine, conversations: Mapping[Key, Messages], settings: Settings, batch_size: int
) -> Generator[tuple[Key, Answer | Exception], None, None]:
    """By `generate`, requests of like length together."""
    numbers, read = list(conversations), settings.after_reading()
    for start in range(0, len(numbers), batch_size * _BATCHES_AHEAD):
        ready = []
        for index in numbers[start : start + batch_size * _BATCHES_AHEAD]:
            try:
                messages = settings.read(conversations[index])
                ready.append(_Ready(index, messages, *engine.measure(messages, read)))
            except REQUEST_ERRORS as error:
                yield index, error
        for rows in _batches(ready, batch_size):
            try:
                found: list[Any] = engine.answer_all([row.messages for row in rows], read)
            except REQUEST_ERRORS as error:
                found = [error] * len(rows)
            yield from zip((row.number for row in rows), found, strict=True)


def _batches(ready: list[_Ready], batch_size: int) -> Generator[list[_Ready], None, None]:
    """Requests of like length together; those whose answers must end earlier, by themselves."""
    ready = sorted(ready, key=lambda row: (row.max_new_tokens, row.num_tokens))
    for _, group in groupby(ready, key=lambda row: row.max_new_tokens):
        rows = list(group)
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
