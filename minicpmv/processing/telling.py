"""Threads that share a tokenizer, which is told how to read (tags as characters, padding) before it
encodes: what one tells it holds for all.

Those that want the same go on side by side, however long their texts are. One that wants something
else waits until they have ended.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary


class Turns:
    """Who uses one tokenizer now, and how it reads for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._how: Hashable = None
        self._threads: list[int] = []

    @contextmanager
    def reading(self, how: Hashable, tell: Callable[[], None]) -> Iterator[None]:
        """A block in which the tokenizer reads in one way.

        Blocks within a block of the same thread are its own matter.

        Args:
            how: equal for blocks that may go on side by side.
            tell: called before, where nobody is reading.
        """
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(
                lambda: not self._threads or how == self._how or me in self._threads
            )
            if not self._threads:
                tell()
                self._how = how
            self._threads.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._threads.remove(me)
                if not self._threads:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which the tokenizer may be told anything."""
        with self.reading(object(), lambda: None):
            yield


def turns_of(tokenizer: Any) -> Turns:
    """Of the users of a tokenizer."""
    with _LOCK:
        return _TURNS.setdefault(tokenizer, Turns())


def _forget() -> None:
    """In the child of a fork: the other threads are the parent's."""
    _TURNS.clear()
    _LOCK.release()


_TURNS: WeakKeyDictionary[Any, Turns] = WeakKeyDictionary()
_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_forget)
