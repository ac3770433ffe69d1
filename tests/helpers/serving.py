"""A backend that answers at once, and requests without a network."""

import asyncio
import json
from contextlib import suppress

from minicpmv.engine.answer import Answer
from minicpmv.serve.app import create_app
from minicpmv.serve.errors import ApiError
from minicpmv.serve.jobs import Finished, ModelCard, Piece, Started
from minicpmv.serve.registry import unknown_model
from minicpmv.serve.settings import ServeSettings

QUESTION = {"model": "fake", "messages": [{"role": "user", "content": "How many?"}]}
BODY_START = "http.response.start"
BODY_PART = "http.response.body"


class FakeBackend:
    """Answers with `words`, each `n` times; what it was asked is in `jobs`.

    Attributes:
        refuses: raised before the prompt is read. breaks: raised after the first word.
        waits: where given, an event that comes before the second word; of the loop that serves.
        closed: generators that ended, in whatever way.
    """

    def __init__(self, words=("There", " are", " three."), name="fake", finish_reason="stop"):
        self.words = words
        self.name = name
        self.finish_reason = finish_reason
        self.jobs = []
        self.refuses = self.breaks = None
        self.waits = None
        self.started = asyncio.Event()
        self.closed = 0

    async def start(self):
        """Nothing is loaded."""

    async def stop(self):
        """Nothing was."""

    def models(self):
        return [ModelCard(self.name, 1, 4096, True, True, {"do_sample": False})]

    async def card(self, model):
        if model != self.name:
            raise unknown_model(model, [self.name])
        return self.models()[0]

    async def answer(self, job):
        self.jobs.append(job)
        try:
            if self.refuses is not None:
                raise self.refuses
            yield Started(7)
            for place, word in enumerate(self.words):
                if place == 1 and self.breaks is not None:
                    raise self.breaks
                if place == 1 and self.waits is not None:
                    self.started.set()
                    await self.waits.wait()
                for index in range(job.n):
                    yield Piece(index, word)
            for index in range(job.n):
                text = "".join(self.words)
                yield Finished(index, Answer(text, 7, len(self.words), 0.1, self.finish_reason))
        finally:
            self.closed += 1

    async def tokenize(self, model, prompt):
        return [1, 2, 3]

    async def detokenize(self, model, ids):
        return "text"

    def stats(self):
        return {}


def fake_app(backend=None, **settings):
    """The application over a fake backend."""
    settings.setdefault("model", ("fake",))
    return create_app(ServeSettings(**settings), backend or FakeBackend())


class Exchange:
    """One request to an ASGI application, message by message.

    `sent` are the messages of the application; `hang_up` is the client that goes.
    """

    def __init__(
        self,
        app,
        path="/v1/chat/completions",
        body=QUESTION,
        method="POST",
        headers=(),
        is_deaf=False,
    ):
        self.sent = []
        self.is_blocked = asyncio.Event()  # a deaf client takes nothing
        self._is_deaf = is_deaf
        self._gone = asyncio.Event()
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        self._more = [] if body is None else [body]  # None: it never comes
        self._new = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        if self._more:
            return {"type": "http.request", "body": self._more.pop(0), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if self._is_deaf:
            self.is_blocked.set()
            await asyncio.Event().wait()
        self.sent.append(message)
        self._new.set()

    def hang_up(self):
        self._gone.set()

    async def until(self, text):
        """Wait until the body has this text."""
        while text not in self.text:
            self._new.clear()
            waiting = asyncio.create_task(self._new.wait())
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if self.task.done() and text not in self.text:
                raise AssertionError(f"{text!r} never came: {self.text!r}")

    async def end(self):
        await self.task
        return self

    @property
    def status(self):
        return next((m["status"] for m in self.sent if m["type"] == BODY_START), None)

    @property
    def headers(self):
        start = next(m for m in self.sent if m["type"] == BODY_START)
        return {name.decode(): value.decode() for name, value in start["headers"]}

    @property
    def text(self):
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == BODY_PART).decode()

    @property
    def json(self):
        return json.loads(self.text)


def events_of(text):
    """The data of a stream of server-sent events, as JSON, without [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    found = []
    for line in lines:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def refusal(code="invalid_value", status=400, **rest):
    return ApiError(status, code, "It cannot be.", **rest)
