"""Threads that share a tokenizer."""

import os
import threading
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_does_not_wait_for_threads_of_its_parent(processor_2_6) -> None:
    tokenizer = processor_2_6.tokenizer
    holds, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with turns_of(tokenizer).alone():
            holds.set()
            may_go.wait(WAIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(WAIT_S)
    child = get_context("fork").Process(target=ids_of, args=(tokenizer, "a b", False))
    child.start()
    child.join(WAIT_S)
    is_stuck = child.is_alive()
    child.kill()
    may_go.set()
    thread.join(WAIT_S)
    assert not is_stuck
    assert child.exitcode == 0
