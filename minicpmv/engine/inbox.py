"""Events on their way from a thread that computes to an event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Deliver = Callable[[Any], None]


class Inbox:
    """Events of many answers for the readers of one loop, which is woken once for all of a step.

    `put` and `flush` may be called from any thread; what was put arrives in order.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._lock = threading.Lock()
        self._held: list[tuple[Deliver, Any]] = []

    def put(self, deliver: Deliver, event: Any) -> None:
        """Keep an event until the next `flush`; `deliver(event)` is called by the loop."""
        with self._lock:
            self._held.append((deliver, event))

    def flush(self) -> None:
        """Wake the loop, if there is something for it; a loop that is closed reads no more."""
        if not self._held:
            return
        with self._lock:  # what two threads flush arrives in order
            held, self._held = self._held, []
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(_deliver, held)


def _deliver(held: list[tuple[Deliver, Any]]) -> None:
    for deliver, event in held:
        deliver(event)
