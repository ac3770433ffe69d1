"""Every recorded answer through `Chat`: the ids are those that were recorded, whoever else asks.

pytest tests/replay/test_engine.py [--golden FOLDER]
"""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from minicpmv import Chat

from .questions import Question

TIMEOUT_S = 120
GREEDY = {"sampling": False, "num_beams": 1, "max_new_tokens": 1}


def _counts(chat: Chat) -> tuple[int, int, int]:
    """Requests that the scheduler took, pictures that were not known, tokens that were."""
    stats = chat.engine.stats()
    requests, tokens = stats.get("requests", {}), stats.get("tokens", {})
    return requests.get("submitted", 0), stats["features"]["misses"], tokens.get("reused", 0)


def _chats(questions: Iterable[Question]) -> list[Chat]:
    return list({id(question.chat): question.chat for question in questions}.values())


@pytest.mark.slow
def test_alone(questions: Sequence[Question]) -> None:
    """One after the other, with nothing remembered."""
    for question in questions:
        question.chat.engine.forget()
        before, *_ = _counts(question.chat)
        question.check(question.chat.ask(question.messages, **question.options))
        after, *_ = _counts(question.chat)
        assert after - before == question.is_computed, question.name


def test_together(questions: Sequence[Question]) -> None:
    """From many threads in one batch, joined late, with neighbours that are cancelled; and again
    when pictures and prompts are known."""
    computed = [question for question in questions if question.is_computed]
    for chat in _chats(computed):
        own = [question for question in computed if question.chat is chat]
        chat.engine.forget()
        _ask_together(chat, own)
        if chat.processor.compat == "released" and chat.supports_images:
            continue  # which remembers no pictures
        _, misses, reused = _counts(chat)
        _ask_together(chat, own[::-1])
        _, misses_again, reused_again = _counts(chat)
        assert misses_again == misses, "a picture was encoded twice"
        assert reused_again > reused


def _ask_together(chat: Chat, questions: Sequence[Question]) -> None:
    """Half of them begin in one step, which a neighbour holds up until all are there."""
    first, late = questions[::2], questions[1::2]
    gate = threading.Event()
    begun = threading.Event()
    messages = chat.processor.question(first[0].messages)
    settings = chat.engine.settings([messages], GREEDY)

    held = threading.Event()

    def hold_up() -> None:
        held.set()
        gate.wait(TIMEOUT_S)

    holder = chat.engine.stream(messages, settings, on_end=hold_up)
    assert held.wait(TIMEOUT_S)  # or its steps would take in who comes before its end
    with ThreadPoolExecutor(8) as threads:

        def cancelled(place: int) -> None:
            neighbour = questions[place]
            options = {**neighbour.options, "sampling": True, "seed": place}
            with chat.stream(neighbour.messages, **options) as stream:
                for _ in zip(range(place % 4), stream, strict=False):
                    begun.set()

        def answered(question: Question) -> None:
            assert begun.wait(TIMEOUT_S)
            question.check(chat.ask(question.messages, **question.options))

        streams = list(threads.map(lambda each: chat.stream(each.messages, **each.options), first))
        assert chat.engine.stats()["requests"]["waiting"] >= len(first) - 1
        neighbours = [threads.submit(cancelled, place) for place in range(1, len(questions), 3)]
        gate.set()
        begun.set()
        others = [threads.submit(answered, question) for question in late]
        for question, stream in zip(first, streams, strict=True):
            question.check(stream.read())
        holder.close()
        for work in [*neighbours, *others]:
            work.result(TIMEOUT_S)
