"""Sends every row of a batch that has no result yet to a worker, and keeps what comes back."""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from .rows import Row
from .workers import Reply, Worker, WorkerBusyError, WorkerLostError

_TRIES = 3  # of a row at which workers failed
_STEP_BACK_S = 1.0  # of a worker that is busy
_AGAIN = (500, 502, 504)  # a server's own failure, which may pass


class AllLostError(OSError):
    """No worker has answered for too long."""


class Rows(Protocol):
    """Where rows come from; a row may come after the last one, where one is sent again."""

    def rows(self) -> Iterator[Row]: ...


class Results(Protocol):
    """Where results go, as `Journal`."""

    path: Path

    @property
    def num_done(self) -> int: ...

    @property
    def num_failed(self) -> int: ...

    def has(self, index: int) -> bool: ...

    def add(self, index: int, result: dict[str, Any], *, failed: bool) -> None: ...


class Batch:
    """One pass over the rows.

    Args:
        on_progress: called with how many rows are done, and how many of them have failed.
        patience_s: seconds without any worker, or with busy ones alone, after which the batch ends
            with an error.
    """

    def __init__(
        self,
        source: Rows,
        journal: Results,
        workers: Sequence[Worker],
        *,
        on_progress: Callable[[int, int], None] = lambda done, failed: None,
        patience_s: float = 300.0,
    ):
        self._journal = journal
        self._workers = workers
        self._on_progress = on_progress
        self._patience_s = patience_s
        self._rows = source.rows()
        self._again: deque[Row] = deque()
        self._failures: Counter[int] = Counter()  # by row
        self._away: set[Worker] = set()
        self._in_flight = 0
        self._is_back = asyncio.Condition()  # a row to be sent again, or the last one's result
        self._answered = time.monotonic()
        self._num_done, self._num_failed = journal.num_done, journal.num_failed

    async def run(self) -> None:
        """Return when every row has its result.

        Raises:
            AllLostError: no worker can be reached; what is done is kept.
            RefusedError: a server refuses whatever it is asked; what is done is kept.
            OSError: the rows cannot be read, or the results not be written.
        """
        most = max((worker.capacity for worker in self._workers), default=0)
        slots = [
            asyncio.create_task(self._slot(worker))
            for n in range(most)  # in turn, so that few rows are shared out, too
            for worker in self._workers
            if n < worker.capacity
        ]
        try:
            # The first slot that ends has seen the end; others may wait for a worker to come back.
            done, _ = await asyncio.wait(slots, return_when=asyncio.FIRST_COMPLETED)
            for slot in done:
                slot.result()
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.gather(*slots, return_exceptions=True)

    async def _slot(self, worker: Worker) -> None:
        while (row := await self._take()) is not None:
            if worker in self._away:  # another of its slots has seen it go; it costs the row no try
                await self._send_again(row)
                await self._revive(worker)
                continue
            try:
                reply = await worker.send(row.url, row.body)
            except WorkerBusyError as error:
                await self._send_again(row)
                self._check_patience(error)
                await asyncio.sleep(_STEP_BACK_S)  # or it would take the same row from the others
                continue
            except WorkerLostError as error:
                self._away.add(worker)
                if error.counts and self._has_failed_often(row):
                    message = f"{error}, as did others before with this row"
                    await self._keep(row, failure(row, "worker_lost", message), failed=True)
                else:
                    await self._send_again(row)
                await self._revive(worker)
                continue
            if reply.status in _AGAIN and not self._has_failed_often(row):
                await self._send_again(row)
            else:
                found = result(row, reply)
                failed = reply.status != 200 or found["response"] is None
                await self._keep(row, found, failed=failed)

    async def _take(self) -> Row | None:
        """The next row to send; None once all have their results."""
        async with self._is_back:
            while True:
                row = self._again.popleft() if self._again else self._next()
                if row is None and self._in_flight == 0:
                    return None
                if row is None:
                    await self._is_back.wait()
                elif row.fault is not None:
                    self._write(row, failure(row, "invalid_request", row.fault), failed=True)
                    await asyncio.sleep(0)  # a file of nothing else can be stopped, too
                else:
                    self._in_flight += 1
                    return row

    def _next(self) -> Row | None:
        return next((row for row in self._rows if not self._journal.has(row.index)), None)

    async def _keep(self, row: Row, found: dict[str, Any], *, failed: bool) -> None:
        async with self._is_back:
            self._failures.pop(row.index, None)
            self._answered = time.monotonic()
            self._write(row, found, failed=failed)
            self._in_flight -= 1
            if self._in_flight == 0:
                self._is_back.notify_all()

    async def _send_again(self, row: Row) -> None:
        async with self._is_back:
            self._again.append(row)
            self._in_flight -= 1
            self._is_back.notify()

    def _has_failed_often(self, row: Row) -> bool:
        self._failures[row.index] += 1
        return self._failures[row.index] >= _TRIES

    def _check_patience(self, error: WorkerBusyError) -> None:
        """Go on while any worker answers: only then will a busy one's turn come."""
        if time.monotonic() - self._answered >= self._patience_s:
            raise AllLostError(
                f"For {self._patience_s:g} s nothing was answered: {error}. What is done is kept "
                f"in {self._journal.path}; the same command goes on from there."
            )

    async def _revive(self, worker: Worker) -> None:
        self._away.add(worker)
        while True:
            try:
                async with asyncio.timeout(self._patience_s):
                    await worker.revive()
            except TimeoutError:
                if len(self._away) == len(self._workers):
                    names = ", ".join(each.name for each in self._workers)
                    raise AllLostError(
                        f"For {self._patience_s:g} s nobody has answered: {names}. What is done is "
                        f"kept in {self._journal.path}; the same command goes on from there."
                    ) from None
            else:
                self._away.discard(worker)
                return

    def _write(self, row: Row, found: dict[str, Any], *, failed: bool) -> None:
        self._journal.add(row.index, found, failed=failed)
        self._num_done += 1
        self._num_failed += failed
        self._on_progress(self._num_done, self._num_failed)


def result(row: Row, reply: Reply) -> dict[str, Any]:
    """A line of OpenAI's output files."""
    try:
        body = json.loads(reply.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        text = reply.body[:200].decode("utf-8", "replace")
        return failure(row, "no_json", f"status {reply.status} came with no object, but {text!r}")
    response = {"status_code": reply.status, "request_id": reply.request_id, "body": body}
    return {"id": f"batch_req_{row.index}", "custom_id": row.custom_id} | {
        "response": response,
        "error": None,
    }


def failure(row: Row, code: str, message: str) -> dict[str, Any]:
    """The line of a row that has no response."""
    return {"id": f"batch_req_{row.index}", "custom_id": row.custom_id} | {
        "response": None,
        "error": {"code": code, "message": message},
    }
