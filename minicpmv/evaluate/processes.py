"""Several processes of this machine, each with a model of its own, that share the items.

Each takes twice as many items as it answers at a time, and whichever has fewest the next one, so
that all end together. A process that dies has its items answered by the others.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from ..devices import threads_of
from .answering import LocalAnswerer, Model, Reply
from .asking import Asking
from .items import Item

_START_S = 1800.0  # a large model is read from a slow disk
_STOP_S = 10.0
_TRIES = 2  # of an item at which processes died

Load = Callable[[], Any]


@dataclass
class _Worker:
    number: int
    process: Any
    pipe: Connection
    items: dict[str, Item] = field(default_factory=dict)  # that it has


class ProcessAnswerer:
    """`number` processes that load what `load` gives, used as a context.

    Args:
        load: can be pickled; gives a `Chat`. It is called in each process with the number of the
            process, from 0.
        name: of the model.
        batch_size: items that each answers at a time.

    Raises:
        OSError: a process ended before its model was loaded.
        ValueError: the model cannot be asked; the message is that of the process.
    """

    def __init__(self, number: int, load: Callable[[int], Any], name: str, batch_size: int = 32):
        self.batch_size = batch_size
        context = multiprocessing.get_context("spawn")
        threads = threads_of(number)
        self._workers: list[_Worker] = []
        try:
            for n in range(number):
                ours, theirs = context.Pipe()
                words = (theirs, n, threads, load, name, batch_size)
                process = context.Process(target=_work, args=words, daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(n, process, ours))
            models = [self._started(worker) for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.model: Model = models[0]

    def _started(self, worker: _Worker) -> Model:
        try:
            if not worker.pipe.poll(_START_S):
                raise OSError(f"Worker {worker.number} has not loaded its model in {_START_S:g} s.")
            found = worker.pipe.recv()
        except EOFError:
            raise OSError(f"Worker {worker.number} ended before its model was loaded.") from None
        if isinstance(found, BaseException):
            raise found
        return found

    def answers(
        self, asking: Asking, items: Iterable[Item]
    ) -> Generator[tuple[str, Reply], None, None]:
        """As of `Answerer`.

        Raises:
            OSError: all processes have died.
        """
        left, again = iter(items), deque[Item]()
        deaths: dict[str, int] = {}
        alive = list(self._workers)
        for worker in alive:
            worker.pipe.send(asking)
        has_more = True
        while True:
            while has_more or again:
                # Not one after the other: few items are shared, too.
                worker = min(alive, key=lambda each: len(each.items))
                if len(worker.items) >= 2 * self.batch_size:
                    break
                item = again.popleft() if again else next(left, None)
                if item is None:
                    has_more = False
                    break
                worker.items[item.id] = item
                if not _send(worker.pipe, item):
                    break
            if not any(worker.items for worker in alive):
                break
            for pipe in wait([worker.pipe for worker in alive]):
                worker = next(each for each in alive if each.pipe is pipe)
                try:
                    item_id, reply = worker.pipe.recv()
                except (EOFError, OSError):
                    alive.remove(worker)
                    yield from self._died(worker, alive, again, deaths)
                    continue
                del worker.items[item_id]
                yield item_id, reply
        for worker in alive:
            _send(worker.pipe, None)

    def _died(
        self,
        worker: _Worker,
        alive: list[_Worker],
        again: deque[Item],
        deaths: dict[str, int],
    ) -> Iterator[tuple[str, Reply]]:
        worker.process.join(_STOP_S)
        what = f"Worker {worker.number} died (exit code {worker.process.exitcode})"
        if not alive:
            raise OSError(f"{what}, as did all others. What is done is kept.")
        for item_id, item in worker.items.items():
            deaths[item_id] = deaths.get(item_id, 0) + 1
            if deaths[item_id] < _TRIES:
                again.append(item)
            else:
                yield item_id, Reply(None, f"{what} while it had this item, as did another before")
        worker.items.clear()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(_STOP_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def __enter__(self) -> "ProcessAnswerer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _send(pipe: Connection, value: Any) -> bool:
    """Whether the other side is there; that it has gone is seen when it is read."""
    try:
        pipe.send(value)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _work(
    pipe: Connection, number: int, threads: int, load: Callable[[int], Any], name: str, size: int
) -> None:
    """One process: the model, then one page after the other, until nobody asks any more."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    try:
        answerer = LocalAnswerer(load(number), name, size)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        pipe.send(error)
        return
    try:
        pipe.send(answerer.model)
        while True:
            asking = pipe.recv()
            inbox = _Inbox(pipe)
            for item_id, reply in answerer.answers(asking, inbox):
                inbox.number -= 1
                pipe.send((item_id, reply))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # whoever asked has gone


class _Inbox:
    """Items as they are sent; None where there is none just now, and answers are computed."""

    def __init__(self, pipe: Connection):
        self.number = 0  # of items that are being answered
        self._pipe = pipe

    def __iter__(self) -> Iterator[Item | None]:
        while True:
            if self.number and not self._pipe.poll():
                yield None
                continue
            item = self._pipe.recv()
            if item is None:
                return
            self.number += 1
            yield item
