"""From a job to its answers: whole, or streamed in the form of a protocol.

An answer ends when its client goes, when the server has to stop, or by itself. What watches for the
first two cancels the task of the request, so that the backend's generator is closed at once.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..engine.answer import Answer, TokenLogprob
from ..engine.request import Messages
from .access_log import Exchange
from .errors import ApiError, ClientGoneError
from .jobs import Event, Finished, Job, Piece, Started
from .merging import merged
from .metrics import CLIENT_GONE, RequestRecord
from .middleware import internal_error, note_error, stopping
from .parameters import media_options
from .sse import Writer

if TYPE_CHECKING:
    from .app import Server


async def messages_of(server: "Server", request: Request, body: Any) -> Messages:
    """The messages of a chat completion, with their pictures fetched and decoded.

    Raises:
        ApiError: one cannot be read or may not be, or the server stops before.
        ClientGoneError: nobody waits any more.
    """
    async with Interruptible(server, request.receive):
        return await server.media.read(
            body.messages, owner=request.state.owner, options=media_options(body)
        )


async def whole(server: "Server", request: Request, job: Job | Sequence[Job]) -> list[Answer]:
    """All answers of a job, or of several with as many answers each, by index.

    Their `logprobs` are those of the text, without the terminator.

    Raises:
        ApiError: the backend refuses the job, or the server stops before the answer is complete.
        ClientGoneError: nobody waits any more.
    """
    answers: dict[int, Answer] = {}
    tokens: dict[int, list[TokenLogprob]] = {}
    async with (
        Interruptible(server, request.receive),
        aclosing(_events(server, request.state.record, job)) as events,
    ):
        async for event in events:
            if isinstance(event, Piece):
                tokens.setdefault(event.index, []).extend(event.tokens)
            elif isinstance(event, Finished):
                answers[event.index] = event.answer
    for index, answer in answers.items():
        if answer.logprobs is not None:
            answer.logprobs = tuple(tokens.get(index, ()))
    return [answers[index] for index in sorted(answers)]


def stream(
    server: "Server", request: Request, job: Job | Sequence[Job], writer: Writer
) -> Response:
    """A response that sends the answers of a job, or of several, as they come.

    What goes wrong before the prompt has been read is an error with a status of its own, unless
    that takes so long that the client had to be told to wait.
    """
    return EventStream(server, request.state.record, job, writer)


def _events(
    server: "Server", record: Exchange, job: Job | Sequence[Job]
) -> AsyncGenerator[Event, None]:
    if isinstance(job, Job):
        return counted(server, record, job)
    if len(job) == 1:
        return counted(server, record, job[0])
    return merged([counted(server, record, each) for each in job], job[0].n)


async def counted(server: "Server", record: Exchange, job: Job) -> AsyncGenerator[Event, None]:
    """The events of a job, told to the log and the metrics on their way."""
    with counting(server, record, job.model) as metric:
        async with aclosing(server.backend.answer(job)) as events:
            async for event in events:
                metric.event(event)
                if isinstance(event, Started):
                    record.num_input_tokens = event.num_input_tokens
                elif isinstance(event, Finished):
                    record.num_input_tokens = event.answer.num_input_tokens
                    done = record.num_output_tokens or 0
                    record.num_output_tokens = done + event.answer.num_output_tokens
                yield event


@contextmanager
def counting(server: "Server", record: Exchange, model: str) -> Iterator[RequestRecord]:
    """A block that answers a request, whose beginning and end the metrics are told."""
    metric = server.metrics.request_started(model, record.begin)
    record.model, record.is_counted = model, True
    code: str | None = CLIENT_GONE
    try:
        yield metric
        code = None
    except ApiError as error:
        code = error.code
        raise
    except (asyncio.CancelledError, GeneratorExit, ClientGoneError):
        raise
    except Exception:
        code = "internal_error"
        raise
    finally:
        metric.end("unavailable" if code == CLIENT_GONE and server.is_expired else code)


class Interruptible:
    """A block that ends early when the client goes or the server must stop.

    Args:
        beat: called after this many seconds without anything sent, with the time until the next.

    Raises:
        ClientGoneError, ApiError: in place of what was going on in the block.
    """

    def __init__(
        self,
        server: "Server",
        receive: Callable[[], Awaitable[Mapping[str, object]]],
        beat: Callable[[], Awaitable[float]] | None = None,
        first_beat_s: float | None = None,
    ):
        self._server = server
        self._receive = receive
        self._beat = beat
        self._wait_s = first_beat_s
        self._why: Literal["gone", "stopping"] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._server.answering.add(self)
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._wait_s):
                    message = await self._receive()
            except TimeoutError:
                assert self._beat is not None
                try:
                    self._wait_s = await self._beat()
                except ClientGoneError:
                    self.interrupt("gone")
                    return
                continue
            if message["type"] == "http.disconnect":
                self.interrupt("gone")
                return

    def interrupt(self, why: Literal["gone", "stopping"]) -> None:
        if self._why is None:
            self._why = why
            self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.answering.discard(self)
        self._watcher.cancel()
        if self._why is None:
            return
        if kind is None:  # complete in the same moment; the cancellation is still to come
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise (ClientGoneError() if self._why == "gone" else stopping()) from None


class EventStream(Response):
    """The answers of a job as a stream of bytes."""

    def __init__(
        self, server: "Server", record: Exchange, job: Job | Sequence[Job], writer: Writer
    ):
        super().__init__(media_type=None)
        self._server = server
        self._record = record
        self._job = job
        self._writer = writer
        self._has_begun = False
        self._sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        try:
            await self._answer(receive)
        except ClientGoneError:
            raise
        except ApiError as error:
            if not self._has_begun:
                raise
            await self._fail(error)
        except Exception:
            if not self._has_begun:
                raise
            await self._fail(internal_error(self._record))

    async def _answer(self, receive: Receive) -> None:
        wait_s = self._server.settings.keep_alive
        self._sent = time.perf_counter()
        async with (
            Interruptible(self._server, receive, self._beat, wait_s),
            aclosing(_events(self._server, self._record, self._job)) as events,
        ):
            async for event in events:
                await self._write(self._writer.write(event))
        await self._write(self._writer.end())
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = [
                (b"content-type", self._writer.media_type.encode()),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),  # nginx would keep it back
            ]
            start = {"type": "http.response.start", "status": 200, "headers": headers}
            await self._send(start)

    async def _write(self, body: bytes) -> None:
        if body:
            await self._begin()
            self._sent = time.perf_counter()
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _beat(self) -> float:
        """Tell the client that we are still there, if nothing else did."""
        every = self._server.settings.keep_alive
        left = self._sent + every - time.perf_counter()
        if left > 0:
            return left
        await self._write(self._writer.keep_alive)
        self._sent = time.perf_counter()
        return every

    async def _fail(self, error: ApiError) -> None:
        note_error(error, self._record)
        await self._write(self._writer.error(error))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
