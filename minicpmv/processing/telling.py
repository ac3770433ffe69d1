"""Threads that share a tokenizer, which is told how to read (tags as characters, padding) before it
encodes: what one tells it holds for all.

Those that want the same go on side by side, however long their texts are. One that wants something
else waits until they have ended, and those that come after it wait behind it. So does a fork: a
tokenizer has locks of its own, which a child finds as they are, and nobody there to open them.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary


class Turns:
    """Who uses one tokenizer now, and how it reads for them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._how: Hashable = None
        self._threads: list[int] = []
        self._queue: deque[threading.Condition] = deque()  # of those that wait; the first is woken

    @contextmanager
    def reading(self, how: Hashable, tell: Callable[[], None]) -> Iterator[None]:
        """A block in which the tokenizer reads in one way.

        Blocks within a block of the same thread are its own matter.

        Args:
            how: equal for blocks that may go on side by side.
            tell: called before, where nobody is reading.
        """
        me = threading.get_ident()
        with self._lock:
            if me not in self._threads and (self._queue or not self._is_free(how)):
                self._wait(lambda: self._is_free(how))
            if not self._threads:
                tell()
                self._how = how
            self._threads.append(me)
        try:
            yield
        finally:
            with self._lock:
                self._threads.remove(me)
                self._wake()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which the tokenizer may be told anything."""
        with self.reading(object(), lambda: None):
            yield

    def hold(self) -> None:
        """Let no other thread be in a block, nor begin one, until `go_on`: the process is about to
        be forked."""
        me = threading.get_ident()
        self._lock.acquire()
        if any(thread != me for thread in self._threads):
            self._wait(lambda: all(thread == me for thread in self._threads), is_first=True)

    def go_on(self, in_child: bool) -> None:
        """After `hold`. A child has none of the threads that wait."""
        if in_child:
            self._queue.clear()
        self._lock.release()

    def _is_free(self, how: Hashable) -> bool:
        return not self._threads or how == self._how

    def _wait(self, is_done: Callable[[], bool], is_first: bool = False) -> None:
        """Until something holds and nobody waits in front; the lock is held."""
        place = threading.Condition(self._lock)
        (self._queue.appendleft if is_first else self._queue.append)(place)
        try:
            place.wait_for(lambda: self._queue[0] is place and is_done())
        finally:  # an interrupt, too
            self._queue.remove(place)
            self._wake()

    def _wake(self) -> None:
        if self._queue:
            self._queue[0].notify()


def turns_of(tokenizer: Any) -> Turns:
    """Of the users of a tokenizer."""
    found = _TURNS.get(tokenizer)  # without the lock: who is in a block must not wait for a fork
    if found is None:
        with _LOCK:
            found = _TURNS.setdefault(tokenizer, Turns())
    return found


def _before_fork() -> None:
    _LOCK.acquire()
    _HELD.extend(_TURNS.values())
    for turns in _HELD:
        turns.hold()


def _after_fork(in_child: bool) -> None:
    for turns in _HELD:
        turns.go_on(in_child)
    _HELD.clear()
    _LOCK.release()


_TURNS: WeakKeyDictionary[Any, Turns] = WeakKeyDictionary()
_HELD: list[Turns] = []
_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )
