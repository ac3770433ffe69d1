"""What answers the requests of a batch: the engine of this process, or servers at addresses."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from ..addresses import without_password
from ..serve.direct import DirectServer, Reply
from ..serve.settings import ServeSettings
from ..serve.upstream.client import httpx, make_client
from .refusals import OF_ALL, RefusedError, advice_for, said_in
from .sizing import rows_at_a_time

_BUSY = (429, 503)
_AGAIN_S = 1.0  # between two tries of a server that is busy or away
_LEAST_WAIT_S, _MOST_WAIT_S = 0.1, 60.0
_LOOK_S = 5.0
_JSON = {"content-type": "application/json"}
ANSWER_S = 600.0  # as OpenAI's own client
PATIENCE_S = 300.0  # with a server that is busy


class WorkerLostError(OSError):
    """A worker went away with a request.

    Args:
        counts: whether the request may have been the reason, as it was being answered.
    """

    def __init__(self, message: str, *, counts: bool):
        super().__init__(message)
        self.counts = counts


class WorkerBusyError(WorkerLostError):
    """A worker is there and has refused a request for too long."""


class Worker(Protocol):
    """Answers requests, `capacity` at a time."""

    name: str
    capacity: int

    async def send(self, url: str, body: bytes) -> Reply:
        """
        Raises:
            WorkerLostError: it did not answer; another may.
            RefusedError: it will answer no request.
        """

    async def revive(self) -> None:
        """Return once it answers again."""


class LocalWorker:
    """The models of this process.

    Args:
        settings: of its models; limits that protect a server from its clients are lifted.
    """

    name = "this process"

    def __init__(self, settings: ServeSettings):
        self.capacity = rows_at_a_time(settings)
        self._server = DirectServer(settings)

    async def __aenter__(self) -> "LocalWorker":
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.__aexit__(*exception)

    async def send(self, url: str, body: bytes) -> Reply:
        return await self._server.post(url, body)

    async def revive(self) -> None:
        raise AssertionError("the process itself is never lost")


class ServerWorker:
    """A server that speaks OpenAI's protocol: ours, vLLM, llama.cpp or another.

    Args:
        url: with or without `/v1`.
        answer_s: seconds for one answer; a server that takes more has stalled.
        patience_s: how long a request is offered to a server that is busy.
        of_all: statuses that say no to every request.
        has_key: whether the client sends one.
    """

    def __init__(
        self,
        url: str,
        client: "httpx.AsyncClient",
        capacity: int,
        answer_s: float = ANSWER_S,
        patience_s: float = PATIENCE_S,
        of_all: Collection[int] = OF_ALL,
        has_key: bool = False,
    ):
        self.name = without_password(url)
        self.capacity = capacity
        self._url = url
        self._client = client
        self._answer_s = answer_s
        self._patience_s = patience_s
        self._of_all = of_all
        self._has_key = has_key
        self._has_answered = False
        self._up = asyncio.Event()
        self._up.set()
        self._looking: asyncio.Task[None] | None = None

    async def send(self, url: str, body: bytes) -> Reply:
        wait_s, begun = _AGAIN_S, time.monotonic()
        while True:
            try:
                async with asyncio.timeout(self._answer_s):
                    answer = await self._client.post(
                        f"{self._url}{url}", content=body, headers=_JSON
                    )
            except TimeoutError as error:
                self._up.clear()
                message = f"{self.name} has given no answer in {self._answer_s:g} s"
                raise WorkerLostError(message, counts=True) from error
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                self._up.clear()
                raise WorkerLostError(f"{self.name} cannot be reached", counts=False) from error
            except httpx.HTTPError as error:
                self._up.clear()
                raise WorkerLostError(f"{self.name} broke off", counts=True) from error
            if answer.status_code not in _BUSY:
                self._check_refused(url, answer)
                return Reply(
                    answer.status_code, answer.content, answer.headers.get("x-request-id", "")
                )
            if time.monotonic() - begun >= self._patience_s:
                raise WorkerBusyError(
                    f"{self.name} says only that it is busy (status {answer.status_code})",
                    counts=False,
                )
            asked = answer.headers.get("retry-after", "")
            pause_s = float(asked) if asked.isdecimal() else wait_s
            await asyncio.sleep(min(max(pause_s, _LEAST_WAIT_S), _MOST_WAIT_S))
            wait_s = min(2 * wait_s, _MOST_WAIT_S)

    def _check_refused(self, url: str, answer: "httpx.Response") -> None:
        """
        Raises:
            RefusedError: whatever is asked, the answer would be the same.
        """
        status = answer.status_code
        self._has_answered |= status == 200
        # Some servers say 403 to single requests, for what is asked in them.
        if status not in self._of_all or (status == 403 and self._has_answered):
            return
        raise RefusedError(
            f"{self.name}{url} refuses every request: status {status}"
            f"{said_in(answer.content)}. {advice_for(status, has_key=self._has_key)} "
            "What is answered is kept; the same command goes on from there."
        )

    async def revive(self) -> None:
        if self._looking is None and not self._up.is_set():
            self._looking = asyncio.create_task(self._look())
        await self._up.wait()

    async def stop(self) -> None:
        """No longer look whether it is back."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S)
            try:
                async with asyncio.timeout(_LOOK_S):
                    answer = await self._client.get(f"{self._url}/v1/models")
            except (httpx.HTTPError, TimeoutError):
                continue
            if answer.status_code < 500:
                break
        self._looking = None
        self._up.set()


def served_model(urls: Sequence[str], api_key: str | None = None) -> str | None:
    """The model of the first server that answers; None where it has several."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(headers=headers, timeout=_LOOK_S, trust_env=False) as client:
        for url in urls:
            try:
                found = client.get(f"{url}/v1/models").json()["data"]
                return str(found[0]["id"]) if len(found) == 1 else None
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                continue
    return None


@asynccontextmanager
async def servers(
    urls: Sequence[str],
    capacity: int,
    api_key: str | None = None,
    answer_s: float = ANSWER_S,
    patience_s: float = PATIENCE_S,
    of_all: Collection[int] = OF_ALL,
) -> AsyncIterator[list[ServerWorker]]:
    """Workers for addresses that `serve.upstream.pool.checked` has passed."""
    client = make_client(api_key)
    given = (client, capacity, answer_s, patience_s, of_all, bool(api_key))
    workers = [ServerWorker(url, *given) for url in dict.fromkeys(urls)]
    try:
        yield workers
    finally:
        for worker in workers:
            await worker.stop()
        await client.aclose()
