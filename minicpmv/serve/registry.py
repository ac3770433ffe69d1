"""Several models by name: loaded when they are first asked for, within a budget of memory."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from .access_log import logger
from .errors import ApiError

_RETRY_S = 10
_MOST_LISTED = 12


class Closable(Protocol):
    """A loaded model."""

    def close(self) -> None: ...


Loaded = TypeVar("Loaded", bound=Closable)


@dataclass
class Entry(Generic[Loaded]):
    """One model, under one name or several.

    Fields:
        users: requests that are answered by it, or wait for it.
        num_bytes: that it takes; None before anybody has counted.
        last_used: on the clock of `time.monotonic`.
    """

    place: str
    created: int
    model: Loaded | None = None
    users: int = 0
    num_bytes: int | None = None
    last_used: float = 0.0
    loading: "asyncio.Task[Loaded] | None" = field(default=None, repr=False)


class Registry(Generic[Loaded]):
    """Loads models in a thread, one after the other, and unloads the one that rested longest.

    Args:
        places: where the model of each name is; names of one place share it.
        load: called in a thread with a place.
        bytes_of: what the model of a place will take, or takes once it is loaded.
        budget: bytes for all together; None: no limit.
    """

    def __init__(
        self,
        places: Mapping[str, str],
        load: Callable[[str], Loaded],
        bytes_of: Callable[[str, Loaded | None], int],
        budget: int | None = None,
    ):
        now = int(time.time())
        entries: dict[str, Entry[Loaded]] = {}
        for place in places.values():
            entries.setdefault(place, Entry(place, now))
        self.entries = {name: entries[place] for name, place in places.items()}
        self._entries = list(entries.values())  # each once
        self.budget = budget
        self._load = load
        self._bytes_of = bytes_of
        self._lock: asyncio.Lock | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="minicpmv-load")

    def entry(self, name: str) -> Entry[Loaded]:
        """
        Raises:
            ApiError: no model is served under this name.
        """
        found = self.entries.get(name)
        if found is None:
            raise unknown_model(name, list(self.entries))
        return found

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Loaded]:
        """The model of a name, which is not unloaded inside the block.

        Raises:
            ApiError: it is not served, or cannot be loaded, now or at all.
        """
        entry = self.entry(name)
        entry.users += 1
        try:
            model = entry.model
            if model is None:
                # Shared by all that wait for it, and not ended with the first of them.
                if entry.loading is None:
                    entry.loading = asyncio.create_task(self._loaded(name, entry))
                    entry.loading.add_done_callback(_taken)
                model = await asyncio.shield(entry.loading)
            yield model
        finally:
            entry.users -= 1
            entry.last_used = time.monotonic()

    async def _loaded(self, name: str, entry: Entry[Loaded]) -> Loaded:
        entry.users += 1
        if self._lock is None:
            self._lock = asyncio.Lock()
        loop = asyncio.get_running_loop()
        try:
            async with self._lock:
                if self.budget is not None:
                    needed = await loop.run_in_executor(
                        self._thread, self._bytes_of, entry.place, None
                    )
                    await self._make_room(name, entry, needed)
                try:
                    model = await loop.run_in_executor(self._thread, self._load, entry.place)
                except (OSError, ValueError, ImportError, RuntimeError) as error:
                    raise _unloadable(name) from error
                entry.num_bytes = self._bytes_of(entry.place, model)
                entry.model = model
                return model
        finally:
            entry.users -= 1
            entry.loading = None

    async def _make_room(self, name: str, wanted: Entry[Loaded], needed: int) -> None:
        """Unload who rests, longest first, until `needed` bytes are free.

        Raises:
            ApiError: that is not enough.
        """
        assert self.budget is not None
        if needed > self.budget:
            raise ApiError(
                400,
                "model_too_large",
                f"The model {name!r} takes {needed:,} bytes, and all models together may take "
                f"{self.budget:,} (--memory-budget). Use a smaller one, or quantize it.",
                param="model",
            )
        held = [each for each in self._entries if each.model is not None]
        free = self.budget - sum(each.num_bytes or 0 for each in held)
        resting = sorted((each for each in held if not each.users), key=lambda e: e.last_used)
        if free + sum(each.num_bytes or 0 for each in resting) < needed:
            raise ApiError(
                503,
                "unavailable",
                f"The model {name!r} takes {needed:,} bytes, and other models that answer now hold "
                f"the memory (--memory-budget {self.budget:,}). Try again later.",
                retry_after=_RETRY_S,
            )
        for each in resting:
            if free >= needed:
                break
            free += each.num_bytes or 0
            logger.info("unloading %s", each.place)
            await self._unload(each)

    async def _unload(self, entry: Entry[Loaded]) -> None:
        model, entry.model = entry.model, None
        if model is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, model.close)
            del model
            # What holds itself in circles, as a model and its hooks do, is not freed by itself.
            await asyncio.get_running_loop().run_in_executor(self._thread, gc.collect)

    async def close(self) -> None:
        """Unload everything."""
        for entry in self._entries:
            if entry.loading is not None:
                await asyncio.wait([entry.loading])
            await self._unload(entry)
        self._thread.shutdown(wait=False)


def _taken(task: "asyncio.Task[Loaded]") -> None:
    """An error that nobody waits for any more is not reported by asyncio."""
    if not task.cancelled():
        task.exception()


def _unloadable(name: str) -> ApiError:
    return ApiError(
        500,
        "model_unavailable",
        f"The model {name!r} cannot be loaded. The log of the server says why.",
        param="model",
    )


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    listed = ", ".join(known[:_MOST_LISTED])
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return ApiError(
        404,
        "model_not_found",
        f"The model {name!r} is not served here. Served: {listed}{more}.",
        param="model",
    )
