"""Endpoints that are called without FastAPI answer as they do behind it, to the byte."""

import asyncio
import re
from typing import Any

import pytest

from minicpmv.serve.app import create_app
from minicpmv.serve.settings import ServeSettings

from ..helpers.serving import QUESTION, Exchange, FakeBackend, fake_app, refusal

CHAT = "/v1/chat/completions"
TIMES = rb'"(created|created_at|completed_at|[a-z_]*_duration)": ?("[^"]*"|[0-9.]+)'
STREAM = {**QUESTION, "stream": True}
# Path, body, settings of the server, what the backend does.
CASES: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "chat": (CHAT, QUESTION, {}, {}),
    "stream": (CHAT, STREAM, {}, {}),
    "completions": ("/v1/completions", {"model": "fake", "prompt": "Once"}, {}, {}),
    "responses": ("/v1/responses", {"model": "fake", "input": "How many?"}, {}, {}),
    "messages": ("/v1/messages", {**QUESTION, "max_tokens": 5}, {}, {}),
    "ollama": ("/api/chat", QUESTION, {}, {}),
    "not JSON": (CHAT, b"{", {}, {}),
    "empty": ("/api/chat", b"", {}, {}),
    "wrong field": ("/v1/messages", {**QUESTION, "max_tokens": "many"}, {}, {}),
    "other model": (CHAT, {**QUESTION, "model": "another"}, {}, {}),
    "too large": (CHAT, {**QUESTION, "user": "x" * 3000}, {"max_body": 2000}, {}),
    "no key": (CHAT, QUESTION, {"api_key": ("one",)}, {}),
    "busy": (CHAT, QUESTION, {}, {"refuses": refusal("queue_full", 429, retry_after=1)}),
    "busy stream": (CHAT, STREAM, {}, {"refuses": refusal("queue_full", 429, retry_after=1)}),
    "broken": (CHAT, QUESTION, {}, {"breaks": KeyError("not for clients")}),
    "broken stream": (CHAT, STREAM, {}, {"breaks": KeyError("not for clients")}),
    "broken before": ("/v1/messages", {**STREAM, "max_tokens": 5}, {}, {"refuses": KeyError("x")}),
    "behind a proxy": (f"/models{CHAT}", QUESTION, {"root_path": "/models"}, {}),
    "proxy cuts": (CHAT, QUESTION, {"root_path": "/models"}, {}),
    "a line's end": (f"{CHAT}\n", QUESTION, {}, {}),
}


async def said(app: Any, path: str, body: Any, **more: Any) -> list[dict[str, Any]]:
    exchange = Exchange(app, path, body, headers=[("x-request-id", "one")], **more)
    await asyncio.wait_for(exchange.end(), 60)
    return [
        {**message, "body": re.sub(TIMES, b'"at":0', message.get("body", b""))}
        for message in exchange.sent
    ]


@pytest.mark.parametrize("name", CASES)
def test_messages_are_those_of_fastapi(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, body, settings, does = CASES[name]

    async def run(is_direct: bool) -> tuple[Any, str]:
        backend = FakeBackend()
        for what, value in does.items():
            setattr(backend, what, value)
        app = fake_app(backend, **settings)
        if not is_direct:
            app.state.posts.clear()
        messages = await said(app, path, body)
        app.state.server.log.lines.flush()
        line = re.sub(r"\S+Z?T\S+|seconds=\S+", "", capsys.readouterr().err.splitlines()[-1])
        page = app.state.server.metrics.render()[0].decode()
        counts = [each for each in page.splitlines() if "_total" in each and "process" not in each]
        return messages, line + "\n".join(counts)

    assert asyncio.run(run(True)) == asyncio.run(run(False))


def test_fastapi_is_not_called_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(ServeSettings(model=("fake",)), FakeBackend())
    assert sorted(app.state.posts) == [
        "/api/chat",
        "/api/generate",
        CHAT,
        "/v1/completions",
        "/v1/decisions",
        "/v1/messages",
        "/v1/responses",
    ]

    async def refuses(*_: Any) -> None:
        raise AssertionError("asked of FastAPI")

    monkeypatch.setattr(app.router, "handle", refuses, raising=False)
    monkeypatch.setattr(type(app.router), "__call__", refuses)
    assert asyncio.run(said(app, CHAT, QUESTION))[0]["status"] == 200
