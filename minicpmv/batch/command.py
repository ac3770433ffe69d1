"""A whole batch: the first look, the workers, the pass over the rows, the file of results."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, OutputExistsError, short
from ..serve.settings import ServeSettings
from .journal import Journal, new_of, part_of
from .processes import processes
from .refusals import OF_ALL, OF_ALL_MODELS
from .rows import Overview, Source
from .run import Batch
from .sizing import num_processes
from .workers import ANSWER_S, LocalWorker, Worker, servers

# What guards a server from strangers is no limit for one's own file.
_LIFTED: Mapping[str, Any] = {"max_body": 2**31, "max_images": 2**16, "timeout": 7 * 86400.0}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the rows are answered: in this process, unless another is named.

    Fields:
        workers: processes on this machine, or actors on the cluster; None: one there, and here as
            many as `sizing` says.
        ray: address of a cluster; "local" starts one here.
        base_urls: of running servers; theirs are `api_key`, `concurrency` (requests at a time) and
            `answer_s` (seconds that one answer may take).
        models: what the model's names are, with their settings: of `ServeSettings`, as keywords.
    """

    models: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = None
    ray: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    base_urls: tuple[str, ...] = ()
    api_key: str | None = None
    concurrency: int = 32
    answer_s: float = ANSWER_S

    @property
    def names(self) -> tuple[str, ...]:
        """That rows may ask for; empty where the servers know."""
        return () if self.base_urls else ServeSettings(**self.models).names


@dataclass(frozen=True)
class Summary:
    """How a batch ended."""

    count: int
    num_failed: int
    num_before: int


def run_batch(
    source: Source,
    out: str | Path,
    place: Place,
    *,
    overwrite: bool = False,
    retry_failed: bool = False,
    patience_s: float = 300.0,
    on_look: Callable[[int, int], None] = lambda done, total: None,
    on_progress: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> Summary:
    """Answer every row of `source`, and write one result for each to `out`, in their order.

    Results stand in `OUT.part` as they come; called again, the batch goes on from there.

    Args:
        overwrite: begin anew where OUT is there.
        retry_failed: ask the rows again that have failed, in OUT.part or in OUT.
        on_progress: called with the rows that are done, all, and how many have failed.

    Raises:
        OSError: a file cannot be read or written, OUT is there already, or no worker answers.
        ValueError: the batch holds no rows, or OUT.part belongs to another batch.
        ArgumentError: OUT is IN, or rows ask for a model that is not there.
    """
    out = Path(out)
    _check_apart(source.path, out)
    overview = source.look(on_look)
    unknown = next(
        (name for name in overview.models if place.names and name not in place.names), None
    )
    if unknown is not None:
        raise ArgumentError(
            f"Line {overview.models[unknown]} asks for the model {short(unknown)}; known here: "
            f"{', '.join(place.names)}. Give the model that name with `served_model_name`."
        )
    is_new = not part_of(out).exists()
    if out.exists() and is_new and not retry_failed and not overwrite:
        raise OutputExistsError.of(out)
    about = {"rows": overview.count, "digest": overview.digest, "models": _identity(place)}
    with Journal(out, about, overview.count) as journal:
        if retry_failed and is_new and out.exists():
            journal.take(source.names())
        if retry_failed:
            journal.forget_failed()
        before = journal.num_done
        on_progress(before, overview.count, journal.num_failed)

        def show(done: int, failed: int) -> None:
            on_progress(done, overview.count, failed)

        if before < overview.count:
            asyncio.run(_run(source, journal, place, patience_s, show, _refusals(overview)))
        failed = journal.num_failed
        journal.finish()
    return Summary(overview.count, failed, before)


async def _run(
    source: Source,
    journal: Journal,
    place: Place,
    patience_s: float,
    on_progress: Callable[[int, int], None],
    of_all: Collection[int],
) -> None:
    left = journal.count - journal.num_done
    async with _workers(place, left, patience_s, of_all) as workers:
        batch = Batch(source, journal, workers, on_progress=on_progress, patience_s=patience_s)
        await batch.run()
    if journal.num_done < journal.count:
        raise OSError(
            f"{source.path} has lost rows while they were answered: it had {journal.count}, and "
            f"{journal.num_done} have results, in {journal.path}. Bring it back and go on."
        )


def _refusals(overview: Overview) -> Collection[int]:
    """Statuses of one row that say no to all others, too."""
    is_one_kind = len(overview.models) <= 1 and len(overview.urls) <= 1
    return OF_ALL if is_one_kind else OF_ALL_MODELS


def _check_apart(source: Path, out: Path) -> None:
    """Refuse to write results over the rows."""
    for path in (out, part_of(out), new_of(out)):
        if path.exists() and path.samefile(source):
            raise ArgumentError(
                f"{source} is the file of rows, and results would be written to {path.name}. "
                "Name another OUT."
            )


def _identity(place: Place) -> Any:
    """What changes the answers: not where they are computed."""
    if place.base_urls:
        return "of servers"
    names = ("model", "served_model_name", "dtype", "quantize")
    return {name: place.models[name] for name in names if name in place.models}


@asynccontextmanager
async def _workers(
    place: Place, rows: int, patience_s: float, of_all: Collection[int]
) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        if place.base_urls:
            found = servers(
                list(place.base_urls),
                place.concurrency,
                place.api_key,
                place.answer_s,
                patience_s,
                of_all,
            )
            yield list(await stack.enter_async_context(found))
            return
        models = {**_LIFTED, **place.models}
        if place.ray is not None:
            from .ray_workers import ray_workers

            address = None if place.ray == "local" else place.ray
            actors = ray_workers(
                models, address=address, number=place.workers or 1, cpus=place.cpus, gpus=place.gpus
            )
            yield list(await stack.enter_async_context(actors))
            return
        devices = _devices(models)
        number = place.workers or num_processes(models, len(devices), rows)
        if number == 1:
            yield [await stack.enter_async_context(LocalWorker(ServeSettings(**models)))]
            return
        yield list(await stack.enter_async_context(processes(number, models, devices)))


def _devices(models: Mapping[str, Any]) -> list[str]:
    """The GPUs that the workers take in turn, where none is named."""
    if models.get("device", "auto") != "auto":
        return []
    import torch

    return [f"cuda:{n}" for n in range(torch.cuda.device_count())]
