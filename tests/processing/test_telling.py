"""Threads that share a tokenizer."""

import os
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context

import pytest

from minicpmv.processing.encoding import ids_of
from minicpmv.processing.telling import Turns, turns_of

WAIT_S = 20


def nothing() -> None:
    pass


def test_those_that_want_the_same_go_on_side_by_side() -> None:
    turns, both, told = Turns(), threading.Barrier(2, timeout=WAIT_S), []

    def work() -> None:
        with turns.reading("same", lambda: told.append(1)):
            both.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not both.broken
    assert told == [1]


def test_one_that_wants_something_else_waits_until_they_have_ended() -> None:
    turns, begins, seen = Turns(), threading.Event(), []

    def other() -> None:
        begins.set()
        with turns.reading("other", lambda: seen.append("told")):
            seen.append("other")

    thread = threading.Thread(target=other)
    with turns.reading("one", nothing):
        thread.start()
        assert begins.wait(WAIT_S)
        thread.join(0.05)
        seen.append("one")
    thread.join(WAIT_S)
    assert seen == ["one", "told", "other"]
    with turns.alone(), turns.alone(), turns.reading("one", nothing):  # its own matter
        seen.append("nested")
    assert seen[-1] == "nested"


def test_each_tokenizer_has_its_own(processor_2_6) -> None:
    tokenizer = processor_2_6.tokenizer
    assert turns_of(tokenizer) is turns_of(tokenizer)
    other = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    assert turns_of(other) is not turns_of(tokenizer)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_those_that_come_later_wait_behind_one_that_waits() -> None:
    """Else it waited as long as there are others, however short each of them is."""
    turns, seen = Turns(), []

    def work(how: str) -> None:
        with turns.reading(how, nothing):
            seen.append(how)

    threads = [threading.Thread(target=work, args=(how,)) for how in ("other", "one", "one")]
    with turns.reading("one", nothing):
        for index, thread in enumerate(threads):
            thread.start()
            until(lambda: len(turns._queue) + len(seen) == index + 1)  # noqa: B023
        assert seen == []
    for thread in threads:
        thread.join(WAIT_S)
    assert seen == ["other", "one", "one"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_fork_waits_until_nobody_encodes(processor_2_6) -> None:
    """A child of before would find the lock of the tokenizers library closed for ever."""
    tokenizer = processor_2_6.tokenizer
    turns = turns_of(tokenizer)
    child = get_context("fork").Process(target=ids_of, args=(tokenizer, "a b", False))
    seen = []

    def fork() -> None:
        child.start()
        seen.append("forked")

    def encode() -> None:
        ids_of(tokenizer, "a b", True)
        seen.append("encoded")

    threads = [threading.Thread(target=fork), threading.Thread(target=encode)]
    with turns.alone():
        threads[0].start()
        until(lambda: bool(turns._queue or seen))
        threads[1].start()  # waits behind the fork, and has no part in the child
        until(lambda: len(turns._queue) + len(seen) == 2)
        seen.append("ended")
    for thread in threads:
        thread.join(WAIT_S)
    child.join(WAIT_S)
    is_stuck = child.is_alive()
    child.kill()
    assert seen[0] == "ended"
    assert sorted(seen) == ["encoded", "ended", "forked"]
    assert not is_stuck
    assert child.exitcode == 0
    assert not turns._queue


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_who_forks_within_a_block_does_not_wait_for_itself(processor_2_6) -> None:
    tokenizer = processor_2_6.tokenizer
    child = get_context("fork").Process(target=ids_of, args=(tokenizer, "a b", False))
    with turns_of(tokenizer).alone():
        child.start()
    child.join(WAIT_S)
    child.kill()
    assert child.exitcode == 0
