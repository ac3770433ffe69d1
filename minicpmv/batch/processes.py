"""Worker processes of this machine, for a batch alone: asked over pipes, and ended with it."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from ..devices import threads_of
from ..serve.settings import ServeSettings
from .frames import LIMIT, read_reply, request_frame
from .sizing import rows_at_a_time
from .workers import Reply, WorkerLostError

START_S = 1800.0  # a large model is read from a slow disk, or fetched
_PROGRAM = ("-m", "minicpmv.batch.child")
_STOP_S = 10.0
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
        self._settings = settings
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0

    async def start(self) -> None:
        """
        Raises:
            OSError: it ended, or its models cannot be loaded; the message says why.
        """
        with self._log.open("ab") as log:
            # A group of its own: Ctrl-C tells the batch, which ends the process.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *_PROGRAM,
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                process_group=0,
                limit=LIMIT,
            )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(dict(self._settings)).encode() + b"\n")
        try:
            async with asyncio.timeout(START_S):
                _, ready = await read_reply(process.stdout)
        except asyncio.IncompleteReadError:
            text = self._log.read_text(errors="replace").strip()
            last = text.splitlines()[-1] if text else "nothing was said"
            raise OSError(f"A worker ended before it was ready: {last}") from None
        except TimeoutError:
            raise OSError(f"A worker was not ready after {START_S:.0f} s.") from None
        if ready.status != 200:
            raise OSError(ready.body.decode())
        self._reader = asyncio.create_task(self._read(process.stdout))

    async def stop(self) -> None:
        """End the process; its requests are for nobody any more."""
        for task in (self._starting, self._reader):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await task
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def send(self, url: str, body: bytes) -> Reply:
        if self._process is None or self._reader is None or self._reader.done():
            raise WorkerLostError(f"{self.name} is not there", counts=False)
        assert self._process.stdin is not None
        self._number += 1
        number = self._number
        found = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(request_frame(number, url, body))
            with suppress(ConnectionError):  # `_read` tells all that wait
                await self._process.stdin.drain()
            return await found
        finally:
            del self._waiting[number]

    async def _read(self, replies: asyncio.StreamReader) -> None:
        """Hand replies to whoever waits for them, until the process is gone."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                number, reply = await read_reply(replies)
                waiting = self._waiting.get(number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(WorkerLostError(f"{self.name} ended", counts=True))

    async def revive(self) -> None:
        if self._reader is not None and not self._reader.done():
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
        try:
            await asyncio.gather(*(worker.start() for worker in workers))
            yield workers
        finally:
            await asyncio.gather(*(worker.stop() for worker in workers))
