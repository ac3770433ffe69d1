"""The servers behind this one: which are well, what they serve, and who is asked next."""

import asyncio
import hashlib
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...addresses import check_address, without_password
from ...errors import short
from ..access_log import logger
from ..errors import ApiError
from .client import httpx, parsed
from .failures import UpstreamError
from .request import Kind
from .stats import Stats, read_page

_CHECK_S = 2.0  # between two questions after the health
_ANSWER_S = 5.0  # within which a server that is well answers
_FAILURES = 2  # in a row, after which a server that is slow is not asked any more
_EVERY_MODELS = 15  # checks between two questions after models
_EVERY_STATS = 3
_RETRY_S = 2
_MOST = 2**40  # of seconds since 1970, and of tokens


@dataclass(frozen=True)
class UpstreamModel:
    """What a server says of a model.

    Fields:
        kind: which software serves it.
        context: most tokens of prompt and answer.
    """

    name: str
    kind: Kind
    created: int
    context: int | None


@dataclass(eq=False)
class Upstream:
    """One server.

    Fields:
        url: without a path.
        in_flight: requests that it answers for us.
        is_told: whether the log knows how it is.
        went: set when it stops being well; a new one each time.
        stats: of its metrics, by model.
    """

    url: str
    in_flight: int = 0
    is_up: bool = False
    is_told: bool = False
    num_failures: int = 0
    models: dict[str, UpstreamModel] = field(default_factory=dict)
    stats: Stats = field(default_factory=dict)
    went: asyncio.Event = field(default_factory=asyncio.Event)

    def rise(self) -> None:
        if not self.is_up:
            logger.info("upstream %s answers", without_password(self.url))
            self.is_up, self.went = True, asyncio.Event()
        self.is_told = True
        self.num_failures = 0

    def fall(self, reason: str) -> None:
        if self.is_up or not self.is_told:
            logger.warning("upstream %s does not answer: %s", without_password(self.url), reason)
        self.is_up, self.is_told = False, True
        self.went.set()
        for groups in self.stats.values():  # what it has counted stays, what it did is over
            groups.get("requests", {}).update(running=0, waiting=0)


class Pool:
    """All servers, and a task that looks after them.

    Args:
        urls: addresses, with or without `/v1`.

    Raises:
        ArgumentError: one is no address.
    """

    def __init__(
        self, urls: Sequence[str], client: "httpx.AsyncClient", *, check_s: float = _CHECK_S
    ):
        self.servers = [Upstream(url) for url in dict.fromkeys(map(checked, urls))]
        self._client = client
        self._check_s = check_s
        self._task: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Look for the first time; servers that come later are found later."""
        await self._look_at_all(0)
        self._task = asyncio.create_task(self._look_after())

    async def stop(self) -> None:
        tasks = [*self._looks, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def doubt(self, server: Upstream) -> None:
        """Look after a server whose connection broke, now; others that it answers may go on."""
        task = asyncio.create_task(self._look_at(server, 1))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look_after(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(self._check_s)
            number += 1
            await self._look_at_all(number)

    async def _look_at_all(self, number: int) -> None:
        await asyncio.gather(*(self._look_at(server, number) for server in self.servers))

    async def _look_at(self, server: Upstream, number: int) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._client.get(f"{server.url}/health")
                if answer.status_code >= 400:
                    server.fall(f"/health gives {answer.status_code}")
                    return
                if not server.is_up or not server.models or number % _EVERY_MODELS == 0:
                    server.models = await self._models_of(server)
                server.rise()
                if number % _EVERY_STATS == 0:
                    page = await self._client.get(f"{server.url}/metrics")
                    server.stats = read_page(page.text) if page.status_code == 200 else {}
        except httpx.ConnectError as error:
            server.fall(str(error) or "no connection")
        except TimeoutError:
            self._failed(server, f"nothing came for {_ANSWER_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, UpstreamError, ValueError) as error:
            self._failed(server, str(error) or type(error).__name__)

    def _failed(self, server: Upstream, reason: str) -> None:
        server.num_failures += 1
        if server.num_failures >= _FAILURES:
            server.fall(reason)

    async def _models_of(self, server: Upstream) -> dict[str, UpstreamModel]:
        answer = await self._client.get(f"{server.url}/v1/models")
        answer.raise_for_status()
        cards = parsed(answer.content).get("data")
        if not isinstance(cards, list):
            raise ValueError("/v1/models has no list 'data'")
        return {model.name: model for model in map(_model_of, cards)}

    def models(self) -> dict[str, UpstreamModel]:
        """What any server serves, or served when it last answered; the shortest context counts.

        Raises:
            ApiError: no server has answered yet.
        """
        found: dict[str, UpstreamModel] = {}
        for server in self.servers:
            for name, model in server.models.items():
                other = found.get(name)
                if other is None or (model.context or 0) < (other.context or 0):
                    found[name] = model
        if not found:
            raise nobody("")
        return found

    def choose(self, model: str, key: str, tried: Collection[Upstream]) -> Upstream | None:
        """The server that is asked next: the one with least to do, and among those the one that
        was asked with this key before, which may remember its pictures.

        Args:
            tried: servers that were asked already.
        """
        usable = [
            server
            for server in self.servers
            if server.is_up and model in server.models and server not in tried
        ]
        return min(usable, key=lambda s: (s.in_flight, _draw(key, s.url)), default=None)

    async def revived(self, servers: list[Upstream]) -> Upstream | None:
        """The first that broke off and is well all the same; those looked at leave the list."""
        while servers:
            server = servers.pop(0)
            await self._look_at(server, 1)
            if server.is_up:
                return server
        return None

    def stats_of(self, model: str) -> Iterable[dict[str, dict[str, int]]]:
        return (server.stats[model] for server in self.servers if model in server.stats)


def _model_of(card: Any) -> UpstreamModel:
    """What an entry of `/v1/models` says.

    Raises:
        ValueError: it is not as it has to be.
    """
    name = card.get("id") if isinstance(card, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"/v1/models has {short(card)}, which names no model")
    kind: Kind = "minicpmv" if card.get("owned_by") == "minicpmv" else "vllm"
    numbers = {key: card.get(key) for key in ("created", "max_model_len")}
    for key, value in numbers.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value < _MOST):
            raise ValueError(f"/v1/models says {short(value)} as {key} of {short(name)}")
    created, context = numbers.values()
    return UpstreamModel(
        name, kind, int(created or time.time()), None if context is None else int(context)
    )


def _draw(key: str, url: str) -> bytes:
    """Every key orders the servers in its own way (rendezvous hashing)."""
    return hashlib.blake2b(f"{key}\0{url}".encode(), digest_size=8).digest()


def nobody(model: str) -> ApiError:
    which = f" that serves {model!r}" if model else ""
    return ApiError(
        503,
        "unavailable",
        f"No server behind this one{which} answers. Try again in a moment.",
        retry_after=_RETRY_S,
    )


def checked(url: str, flag: str = "--upstream") -> str:
    """The address of a server without a path.

    Raises:
        ArgumentError: it is none.
    """
    found = re.sub(r"/+(v1/*)?$", "", url.strip())
    check_address(found, url, flag)
    return found
