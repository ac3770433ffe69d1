"""Worker processes of this machine, for a batch alone: asked over pipes, and ended with it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..devices import threads_of
from ..serve.settings import ServeSettings
from ..worker_processes import START_S, WorkerProcess, stop
from .child import answer
from .sizing import rows_at_a_time
from .workers import Reply, WorkerLostError

_AGAIN_S = 2.0  # between two tries to start a process


class ProcessWorker:
    """A process with models of its own; one that dies is started again.

    Args:
        name: for people.
        settings: of `ServeSettings`, as keywords.
        threads: of its computations.
        log: file that gets what it prints.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], threads: int, log: Path):
        self.name = name
        self.capacity = rows_at_a_time(ServeSettings(**settings), threads)
        self.process = WorkerProcess(name, partial(answer, settings), threads, log)
        self._is_there = False
        self._starting: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0

    async def start(self) -> None:
        """
        Raises:
            OSError: it ended, or its models cannot be loaded; the message says why.
        """
        self.process.stop()
        self.process.start()
        loop, has_told = asyncio.get_running_loop(), asyncio.Event()
        descriptor = self.process.pipe.fileno()
        loop.add_reader(descriptor, has_told.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(START_S):
                    await has_told.wait()
        finally:
            loop.remove_reader(descriptor)
        self.process.ready(0)
        self._is_there = True
        loop.add_reader(descriptor, self._receive)

    async def halt(self) -> None:
        """Tell nobody any more what comes, so that the process can be ended."""
        if self._starting is not None:
            self._starting.cancel()
            with suppress(asyncio.CancelledError):
                await self._starting
        self._lose()

    async def send(self, url: str, body: bytes) -> Reply:
        if not self._is_there:
            raise WorkerLostError(f"{self.name} is not there", counts=False)
        self._number += 1
        number = self._number
        found = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with self._sending:
                with suppress(OSError):  # it ended, which is told to all that wait
                    await asyncio.to_thread(self.process.pipe.send, (number, url, body))
            return await found
        finally:
            del self._waiting[number]

    def _receive(self) -> None:
        """Hand a reply to whoever waits for it."""
        try:
            number, reply = self.process.pipe.recv()
        except (EOFError, OSError):
            self._lose()
            return
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def _lose(self) -> None:
        """The process is gone, and with it what it was asked."""
        if not self._is_there:
            return
        self._is_there = False
        asyncio.get_running_loop().remove_reader(self.process.pipe.fileno())
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(WorkerLostError(f"{self.name} ended", counts=True))

    async def revive(self) -> None:
        if self._is_there:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_again())
        await asyncio.shield(self._starting)

    async def _start_again(self) -> None:
        try:
            while True:
                try:
                    await self.start()
                    return
                except OSError:
                    await asyncio.sleep(_AGAIN_S)
        finally:
            self._starting = None


@asynccontextmanager
async def processes(
    number: int, settings: Mapping[str, Any], devices: Sequence[str] = ()
) -> AsyncIterator[list[ProcessWorker]]:
    """Inside, that many processes answer; they share the cores, and end with the block.

    Args:
        settings: of `ServeSettings`, as keywords.
        devices: that the processes take in turn; empty: what `settings` says.

    Raises:
        OSError: one could not be started; the message says why.
    """
    threads = threads_of(number)
    with tempfile.TemporaryDirectory(prefix="minicpmv-batch-") as folder:
        workers = []
        for n in range(number):
            own = {**settings, "device": devices[n % len(devices)]} if devices else settings
            log = Path(folder, f"{n + 1}.log")
            workers.append(ProcessWorker(f"process {n + 1}", own, threads, log))
        starts = [asyncio.create_task(worker.start()) for worker in workers]
        try:
            await asyncio.gather(*starts)
            yield workers
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            for worker in workers:
                await worker.halt()
            stop(worker.process for worker in workers)
