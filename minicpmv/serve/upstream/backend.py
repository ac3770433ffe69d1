"""One or many running servers as a backend: vLLM's, or others of this package.

A request goes to the server with least to do. If that dies, is full or fails before the first text,
another is asked, or the same once more where only the connection broke; after it, the answer ends
with an error, for another server would begin anew.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ...decisions.decision import Decision
from ...engine.request import Messages
from ..errors import ApiError
from ..jobs import DecisionJob, Event, Job, ModelCard, Started
from ..registry import unknown_model
from .client import chunks, make_client, post_json
from .decide import by_minicpmv, by_vllm
from .failures import UpstreamError, gone, nonsense, stalled, tokens_in
from .pool import Pool, Upstream, UpstreamModel, nobody
from .request import Call, Kind, call_of, has_media, has_messages, media_settings, messages_of
from .stats import added
from .stream import Reader

if TYPE_CHECKING:
    from ..settings import ServeSettings

_MOST_TRIES = 3  # a request that kills what answers it shall not kill all
_STALL_S = 120.0  # between two chunks of an answer
_QUICK_S = 30.0  # for what needs no model
_THREADS = 4  # that write pictures
_RETRY_S = 1
_MOST_TEXTS = 256
_KEY = 2000  # characters of a conversation that say which one it is


class VllmBackend:
    """Answers by the servers of `settings.upstream`.

    Args:
        check_s: between two looks at their health.
        stall_s: an answer that stops for so long is given up.
    """

    def __init__(
        self, settings: "ServeSettings", *, check_s: float = 2.0, stall_s: float = _STALL_S
    ):
        self.settings = settings
        self._client = make_client(settings.upstream_api_key)
        self._pool = Pool(settings.upstream, self._client, check_s=check_s)
        self._threads = ThreadPoolExecutor(_THREADS, "minicpmv-upstream")
        self._stall_s = stall_s
        self._names = _names_of(settings)
        self._in_flight = 0

    async def start(self) -> None:
        await self._pool.start()

    async def stop(self) -> None:
        await self._pool.stop()
        await self._client.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def models(self) -> Sequence[ModelCard]:
        """
        Raises:
            ApiError: no server has answered yet.
        """
        found = self._pool.models()
        names = self._names or {name: name for name in found}
        return [_card(name, found[there]) for name, there in names.items() if there in found]

    async def card(self, model: str) -> ModelCard:
        """
        Raises:
            ApiError: no server has it.
        """
        return _card(model, self._model(model))

    def _model(self, name: str) -> UpstreamModel:
        found = self._pool.models()
        there = self._names.get(name) if self._names else name
        if there is None or there not in found:
            raise unknown_model(name, [card.name for card in self.models()])
        return found[there]

    async def answer(self, job: Job) -> AsyncGenerator[Event, None]:
        """Events of all `n` answers as they come; closing the generator cancels them.

        Raises:
            ApiError: no server can answer, or one stopped in the middle.
        """
        begin = time.perf_counter()
        model = self._model(job.model)
        self._check_room()
        self._in_flight += 1
        try:
            async with aclosing(self._tries(job, model, begin)) as events:
                async for event in events:
                    yield event
        finally:
            self._in_flight -= 1

    async def _tries(
        self, job: Job, model: UpstreamModel, begin: float
    ) -> AsyncGenerator[Event, None]:
        calls: dict[Kind, Call] = {}
        tried: list[Upstream] = []
        broken: list[Upstream] = []
        failure: UpstreamError | None = None
        key = _key_of(job)
        is_started = False
        while len(tried) < _MOST_TRIES:
            server = self._pool.choose(model.name, key, tried)
            if server is None:
                server = await self._pool.revived(broken)
            if server is None or model.name not in server.models:
                break
            tried.append(server)
            kind = server.models[model.name].kind
            if kind not in calls:
                calls[kind] = await self._call(job, model.name, kind)
            reader = Reader(job, begin, calls[kind].is_chat)
            server.in_flight += 1
            try:
                async with aclosing(self._read(server, calls[kind], job, reader)) as events:
                    async for event in events:
                        if isinstance(event, Started):
                            if is_started:  # by a server that died since
                                continue
                            is_started = True
                        yield event
                return
            except UpstreamError as error:
                if error.is_dead:
                    self._pool.doubt(server)
                    if server not in tried[:-1]:
                        broken.append(server)
                if reader.has_begun or not error.elsewhere:
                    raise error.error from error
                failure = error
            finally:
                server.in_flight -= 1
        raise nobody(job.model) if failure is None else failure.error

    async def _call(self, job: Job, model: str, kind: Kind) -> Call:
        if not has_media(job.prompt):
            return call_of(job, model, kind)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, call_of, job, model, kind)

    async def _read(
        self, server: Upstream, call: Call, job: Job, reader: Reader
    ) -> AsyncGenerator[Event, None]:
        """The answers of one server.

        Raises:
            UpstreamError: it fails.
        """
        limit = job.options.get("max_time") or self.settings.timeout
        end = time.perf_counter() + limit
        headers = {"x-request-id": job.request_id} if job.request_id else {}
        async with aclosing(chunks(self._client, server.url, call, headers)) as found:
            while True:
                left = end - time.perf_counter()
                try:
                    if reader.has_begun:
                        async with asyncio.timeout(min(left, self._stall_s)):
                            chunk = await anext(found)
                    else:
                        chunk = await _unless_gone(server, found, left)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    if time.perf_counter() < end:
                        raise stalled(self._stall_s) from None
                    for event in reader.end("time"):
                        yield event
                    return
                for event in reader.feed(chunk):
                    yield event
        for event in reader.end():
            yield event

    def _check_room(self) -> None:
        settings = self.settings
        most = settings.max_num_seqs * len(self._pool.servers) + settings.max_queue
        if self._in_flight >= most:
            raise ApiError(
                429,
                "queue_full",
                f"{self._in_flight} requests are being answered or wait; the limit is {most}. Ask "
                "again later.",
                retry_after=_RETRY_S,
            )

    async def tokenize(
        self,
        model: str,
        prompt: Messages | str,
        *,
        options: Mapping[str, Any] | None = None,
        begins: bool = True,
    ) -> list[int]:
        """Tokens of a text, or of a conversation as the model is shown it; vLLM counts a picture
        there as its placeholder."""
        body: dict[str, Any] = {"prompt": prompt, "add_special_tokens": begins}
        if not isinstance(prompt, str):
            kind = self._model(model).kind
            loop = asyncio.get_running_loop()
            body = {"messages": await loop.run_in_executor(self._threads, messages_of, prompt)}
            settings = media_settings(prompt, options or {}, kind)
            if settings:
                body["mm_processor_kwargs"] = settings
        return tokens_in(await self._ask(model, "/tokenize", body))

    async def detokenize(self, model: str, ids: Sequence[int]) -> str:
        found = await self._ask(model, "/detokenize", {"tokens": list(ids)})
        if not isinstance(text := found.get("prompt"), str):
            raise nonsense(found).error
        return text

    async def token_texts(self, model: str, ids: Sequence[int]) -> list[str]:
        """Each token by itself, as text: servers do not tell how the vocabulary writes it.

        Raises:
            ApiError: there are too many.
        """
        different = list(dict.fromkeys(ids))
        if len(different) > _MOST_TEXTS:
            raise ApiError(
                400,
                "invalid_value",
                f"return_token_strs is true and there are {len(different)} different tokens; the "
                f"servers behind this one are asked for {_MOST_TEXTS} at most.",
                param="return_token_strs",
            )
        texts = await asyncio.gather(*(self.detokenize(model, [token]) for token in different))
        found = dict(zip(different, texts, strict=True))
        return [found[token] for token in ids]

    async def decide(self, job: DecisionJob) -> Sequence[Decision]:
        """A decision for each question; cancelling it ends what is asked.

        Raises:
            ApiError: the servers cannot decide.
        """
        self._check_room()
        limit = self.settings.timeout

        async def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
            return await self._ask(job.model, path, body, limit)

        decide = by_vllm if self._model(job.model).kind == "vllm" else by_minicpmv
        self._in_flight += 1
        try:
            return await decide(job, ask)
        except UpstreamError as error:
            raise error.error from error
        finally:
            self._in_flight -= 1

    async def _ask(
        self, name: str, path: str, body: dict[str, Any], within_s: float = _QUICK_S
    ) -> dict[str, Any]:
        """The answer of the first server that has one."""
        model = self._model(name)
        tried: list[Upstream] = []
        failure: UpstreamError | None = None
        while len(tried) < _MOST_TRIES:
            server = self._pool.choose(model.name, "", tried)
            if server is None:
                break
            tried.append(server)
            server.in_flight += 1
            try:
                return await post_json(
                    self._client, f"{server.url}{path}", {"model": model.name, **body}, within_s
                )
            except UpstreamError as error:
                if error.is_dead:
                    self._pool.doubt(server)
                if not error.elsewhere:
                    raise error.error from error
                failure = error
            finally:
                server.in_flight -= 1
        raise nobody(name) if failure is None else failure.error

    def stats(self) -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        """By model, what the servers' own metrics say, added up."""
        names = self._names or {
            name: name for server in self._pool.servers for name in server.models
        }
        return {name: added(self._pool.stats_of(there)) for name, there in names.items()}


def _card(name: str, model: UpstreamModel) -> ModelCard:
    return ModelCard(name, model.created, model.context, True, None, {})


async def _unless_gone(server: Upstream, found: AsyncGenerator[Any, None], left: float) -> Any:
    """The next chunk, unless the server stops being well before.

    Raises:
        TimeoutError: neither comes in time.
        UpstreamError: it stopped being well.
    """
    chunk = asyncio.ensure_future(anext(found))
    went = asyncio.ensure_future(server.went.wait())
    try:
        await asyncio.wait({chunk, went}, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
        if chunk.done():
            return chunk.result()
        if went.done():
            raise gone("does not answer any more")
        raise TimeoutError
    finally:
        went.cancel()
        if not chunk.done():
            chunk.cancel()
            await asyncio.wait({chunk})
        if not chunk.cancelled():
            chunk.exception()  # may have broken in the same moment; asyncio shall not complain


def _names_of(settings: "ServeSettings") -> dict[str, str]:
    """The servers' names of models by those that clients use; empty: all, under their own."""
    if settings.model == ("nano",) and not settings.served_model_name:
        return {}  # nothing was said
    return dict(settings.models)


def _key_of(job: Job) -> str:
    """The same for requests that begin alike, up to the first message of a user."""
    if not isinstance(job.prompt, list) or not has_messages(job.prompt):
        return str(job.prompt)[:_KEY]
    parts: list[str] = []
    for message in job.prompt:
        content = message["content"]
        parts += [content] if isinstance(content, str) else [_name_of(each) for each in content]
        if message["role"] == "user":
            break
    return " ".join(part[:_KEY] for part in parts)


def _name_of(block: Mapping[str, Any]) -> str:
    """A text, or some pixels of a picture."""
    if block["type"] == "text":
        return str(block["text"])
    picture = block[block["type"]]
    image = picture[0] if isinstance(picture, list) else picture
    width, height = image.size
    places = [(x * width // 5, y * height // 5) for x in range(5) for y in range(5)]
    return f"{image.size} {[image.getpixel(place) for place in places]}"
