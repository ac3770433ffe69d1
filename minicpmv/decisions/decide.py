"""Questions to decisions: every question in every order is a prompt, whose answers are scored."""

import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from ..engine.engine import Engine
from ..engine.inputs import Settings
from ..engine.limits import QueueFullError
from ..engine.options import GENERATION
from ..engine.request import Messages, messages_of
from ..engine.scoring import Scores
from ..errors import ArgumentError
from .answers import AnswerTokens, Tokens
from .decision import Decision, decision_of, log_mean_exp
from .question import Question

# So many prompts are read ahead of the one that is waited for.
MAX_OPEN = 64
# What is asked while pictures are read, before the questions are added.
STAND_IN = "?"


class _Open:
    """A question whose answers are being scored."""

    def __init__(self, question: Question, messages: Messages, tokens: AnswerTokens):
        self.question = question
        self.answers = tokens.of_question(question)
        self.prompts = [asking(messages, question.written(order)) for order in question.orders()]
        self._found: dict[str, list[float]] = {label: [] for label in self.answers}
        self._read: list[Scores] = []

    @property
    def ids(self) -> list[Tokens]:
        return [ids for answers in self.answers.values() for ids in answers]

    def read(self, scores: Scores) -> None:
        """Wait for the scores of one order."""
        totals = iter([math.fsum(logprobs) for logprobs in scores.read()])
        for label, answers in self.answers.items():
            self._found[label] += [next(totals) for _ in answers]
        self._read.append(scores)

    def decision(self) -> Decision:
        """A label's probability is that of all its answers, and the mean over the orders."""
        number = len(self._read)
        return decision_of(
            self.question.kind,
            {label: log_mean_exp(values, number) for label, values in self._found.items()},
            num_orders=number,
            num_input_tokens=sum(scores.num_input_tokens for scores in self._read),
            num_cached_tokens=sum(scores.num_cached_tokens for scores in self._read),
            num_scored_tokens=sum(map(len, self.ids)) * number,
        )


def decide_all(
    engine: Engine,
    asked: Iterable[tuple[Question, Messages]],
    settings: Settings,
    cancelled: threading.Event | None = None,
) -> list[Decision]:
    """Decide questions together.

    Args:
        asked: each question with a conversation in the form of `Processor.question`, to whose last

    Raises:
        QueueFullError: others have filled the queue.
        ValueError: a choice or a prompt is wrong, or `cancelled` was set.
    """
    tokens = AnswerTokens.of_processor(engine.processor)
    opened = [_Open(question, messages, tokens) for question, messages in asked]
    left = deque((one, prompt) for one in opened for prompt in one.prompts)
    begun: deque[tuple[_Open, Scores]] = deque()
    try:
        while left or begun:
            if cancelled is not None and cancelled.is_set():
                raise ValueError("The decisions were cancelled before they were complete.")
            try:
                while left and len(begun) < MAX_OPEN:
                    one, prompt = left[0]
                    begun.append((one, engine.begin_score(prompt, settings, one.ids)))
                    left.popleft()
            except QueueFullError:
                if not begun:  # of these, of which one makes room
                    raise
            one, scores = begun[0]
            one.read(scores)
            begun.popleft()
        return [one.decision() for one in opened]
    finally:
        for _, scores in begun:
            scores.cancel()


def check_decision_options(options: Mapping[str, Any]) -> None:
    """Check that there are none of those that choose tokens.

    Raises:
        ArgumentError: there is one.
    """
    for name in GENERATION:
        if options.get(name) is not None:
            raise ArgumentError(f"`{name}` would have no effect on a decision. Remove it.")


def opening_of(
    before: Messages | None, images: Iterable[Any], videos: Iterable[Any]
) -> tuple[Messages, bool]:
    """What questions are added to, and whether `STAND_IN` stands at its end in their place."""
    if before is None:
        return messages_of(STAND_IN, images, videos), True
    messages = messages_of(before, images, videos)
    last = messages[-1] if messages else None
    if isinstance(last, Mapping) and last.get("role") != "user":
        return [*messages, {"role": "user", "content": STAND_IN}], True
    return messages, False


def without_stand_in(messages: Messages) -> Messages:
    """The conversation without the text `STAND_IN`, in whose place questions come."""
    *before, last = messages
    content = last["content"]
    return [*before, {**last, "content": "" if isinstance(content, str) else content[:-1]}]


def asking(messages: Messages, text: str) -> Messages:
    """The conversation with a text at the end of its last message."""
    if not text:
        return messages
    *before, last = messages
    content = last.get("content") or ""
    if isinstance(content, str):
        content = f"{content}\n{text}" if content else text
    else:
        content = [*content, {"type": "text", "text": text}]
    return [*before, {**last, "content": content}]
