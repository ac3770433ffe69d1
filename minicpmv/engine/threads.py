"""The thread of a scheduler: there while there is work; not across a fork, nor at the end."""

import atexit
import os
import threading
import weakref
from functools import partial
from typing import Protocol

_LINGER_S = 5.0  # that a thread waits for another request before it ends


class Worker(Protocol):
    """What has such a thread."""

    @property
    def wake_event(self) -> threading.Event:
        """Set when there is something to do, or to see."""

    def work(self) -> bool:
        """Compute while there is something to do; False when the thread should end."""

    def rest(self) -> bool:
        """Whether the thread ends, for there is nothing to do."""

    def hold(self) -> None:
        """Compute nothing until `go_on`: the process is about to be forked."""

    def go_on(self, in_child: bool) -> None:
        """After `hold`, in the parent and in the child."""

    def close(self, silently: bool) -> None: ...


def register(worker: Worker) -> None:
    """Have it end before the interpreter does, and rest while the process is forked."""
    _WORKERS.add(worker)


def begin(worker: Worker) -> threading.Thread:
    """A thread that has been started. It keeps the worker only while there is work."""
    arguments = (weakref.ref(worker),)
    thread = threading.Thread(target=_work, args=arguments, name="minicpmv-engine", daemon=True)
    thread.start()
    return thread


def _work(reference: "weakref.ref[Worker]") -> None:
    while True:
        worker = reference()
        if worker is None:
            return
        worker.wake_event.clear()
        goes_on, wake = worker.work(), worker.wake_event
        del worker
        if goes_on and wake.wait(_LINGER_S):
            continue
        worker = reference()
        if worker is None or worker.rest():
            return
        del worker


def _close_all() -> None:
    """No thread may be inside PyTorch when the interpreter ends."""
    for worker in list(_WORKERS):
        worker.close(silently=True)


def _before_fork() -> None:
    _HELD.extend(_WORKERS)
    for worker in _HELD:
        worker.hold()


def _after_fork(in_child: bool) -> None:
    for worker in _HELD:
        worker.go_on(in_child)
    _HELD.clear()


_WORKERS: "weakref.WeakSet[Worker]" = weakref.WeakSet()
_HELD: list[Worker] = []

atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, False),
        after_in_child=partial(_after_fork, True),
    )
