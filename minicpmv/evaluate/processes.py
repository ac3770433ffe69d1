"""Several processes of this machine, each with a model of its own, that share the items.

Each takes twice as many items as it answers at a time, and whichever has fewest the next one, so
that all end together. A process that dies has its items answered by the others.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..chat import Chat
from ..devices import threads_of
from ..loader import load
from ..worker_processes import WorkerProcess, stop
from .answering import LocalAnswerer, Model, Reply
from .asking import Asking
from .items import Item

_TRIES = 2  # of an item at which processes died


@dataclass
class _Worker:
    process: WorkerProcess
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
        threads = threads_of(number)
        works = [partial(_work, partial(load, n), name, batch_size) for n in range(number)]
        self._workers = [
            _Worker(WorkerProcess(f"Worker {n}", work, threads)) for n, work in enumerate(works)
        ]
        try:
            for worker in self._workers:
                worker.process.start()
            models = [worker.process.ready() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.model: Model = models[0]

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
            _send(worker.process.pipe, asking)
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
                if not _send(worker.process.pipe, item):
                    break
            if not any(worker.items for worker in alive):
                break
            for pipe in wait([worker.process.pipe for worker in alive]):
                worker = next(each for each in alive if each.process.pipe is pipe)
                try:
                    item_id, reply = worker.process.pipe.recv()
                except (EOFError, OSError):
                    alive.remove(worker)
                    yield from self._died(worker, alive, again, deaths)
                    continue
                del worker.items[item_id]
                yield item_id, reply
        for worker in alive:
            _send(worker.process.pipe, None)

    def _died(
        self,
        worker: _Worker,
        alive: list[_Worker],
        again: deque[Item],
        deaths: dict[str, int],
    ) -> Iterator[tuple[str, Reply]]:
        what = f"{worker.process.name} died (exit code {worker.process.exit_code()})"
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
        stop(worker.process for worker in self._workers)

    def __enter__(self) -> "ProcessAnswerer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def load_in_turn(model: str, options: Mapping[str, Any], number: int) -> Chat:
    """The model of one of several processes; they take the GPUs in turn.

    Args:
        options: of `load`.
    """
    given = dict(options)
    if given.get("device", "auto") == "auto" and torch.cuda.device_count() > 1:
        given["device"] = f"cuda:{number % torch.cuda.device_count()}"
    return load(model, progress=False, **given)


def _send(pipe: Connection, value: Any) -> bool:
    """Whether the other side is there; that it has gone is seen when it is read."""
    try:
        pipe.send(value)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _work(load: Callable[[], Any], name: str, size: int, pipe: Connection) -> None:
    """One process: the model, then one page after the other, until nobody asks any more."""
    try:
        answerer = LocalAnswerer(load(), name, size)
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
    except (EOFError, BrokenPipeError, ConnectionResetError):
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
