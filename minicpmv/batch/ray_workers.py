"""Workers on the nodes of a Ray cluster: each an actor that holds the models."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ..serve.settings import ServeSettings
from ..worker_processes import START_S
from .sizing import rows_at_a_time
from .workers import LocalWorker, Reply, WorkerLostError

_AGAIN_S = 2.0


class _Actor:
    """Runs on a node; methods are coroutines, so that many requests are answered at a time."""

    def __init__(self, settings: Mapping[str, Any], threads: int | None):
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self._worker = LocalWorker(ServeSettings(**settings))
        self._ready: asyncio.Task[Any] | None = None

    async def ready(self) -> str:
        """Load the models; the name of the node."""
        import socket

        if self._ready is None:
            self._ready = asyncio.create_task(self._worker.__aenter__())
        await asyncio.shield(self._ready)
        return socket.gethostname()

    async def send(self, url: str, body: bytes) -> tuple[int, bytes, str]:
        await self.ready()
        reply = await self._worker.send(url, body)
        return reply.status, reply.body, reply.request_id


class RayWorker:
    """One actor. Ray starts it again on a node that is left when its own is lost."""

    def __init__(self, actor: Any, name: str, capacity: int):
        self.name = name
        self.capacity = capacity
        self._actor = actor
        self._errors = _ray().exceptions

    async def send(self, url: str, body: bytes) -> Reply:
        try:
            return Reply(*await self._actor.send.remote(url, body))
        except (self._errors.RayActorError, self._errors.ActorUnavailableError) as error:
            raise WorkerLostError(f"{self.name} was lost", counts=True) from error

    async def revive(self) -> None:
        while True:
            try:
                await self._actor.ready.remote()
                return
            except (self._errors.RayActorError, self._errors.ActorUnavailableError):
                await asyncio.sleep(_AGAIN_S)


@asynccontextmanager
async def ray_workers(
    settings: Mapping[str, Any],
    *,
    address: str | None,
    number: int,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> AsyncIterator[list[RayWorker]]:
    """Actors on a cluster, with their models loaded; they end with the block.

    Args:
        settings: of `ServeSettings`, as keywords.
        address: of the cluster ("auto": the one of this machine); None starts one here.
        cpus, gpus: that each actor takes; its threads are as many as its CPUs.

    Raises:
        ImportError: Ray is not installed.
        OSError: the cluster cannot be reached, or has no place for the actors.
        ValueError: the models cannot be loaded.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise OSError(f"The Ray cluster {address or 'here'}: {reason}") from error
    actors: list[Any] = []
    try:
        threads = max(1, int(cpus))
        capacity = rows_at_a_time(ServeSettings(**settings), threads)
        kind = ray.remote(_Actor).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_concurrency=2 * capacity + 2,
            scheduling_strategy="SPREAD",
        )
        actors = [kind.remote(dict(settings), threads) for _ in range(number)]
        await _load(ray, actors, number, cpus, gpus)
        yield [RayWorker(each, f"Ray worker {n}", capacity) for n, each in enumerate(actors, 1)]
    finally:
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


async def _load(ray: Any, actors: list[Any], number: int, cpus: float, gpus: float) -> None:
    """Wait for the first actor; others join as they get ready."""
    waiting = [asyncio.ensure_future(_ready(actor)) for actor in actors]
    try:
        async with asyncio.timeout(START_S):
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
    except TimeoutError:
        raise OSError(
            f"No Ray worker was ready after {START_S:.0f} s. {number} with {cpus:g} CPUs and "
            f"{gpus:g} GPUs each are asked for; the cluster has {ray.cluster_resources()}."
        ) from None
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, ValueError | OSError | ImportError) else None
        if cause is None:
            raise
        raise cause from None


async def _ready(actor: Any) -> Any:
    return await actor.ready.remote()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ImportError("--ray needs Ray: pip install 'minicpmv[ray]'") from error
