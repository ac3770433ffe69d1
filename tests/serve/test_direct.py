"""What is asked without HTTP is answered as over HTTP, to the byte."""

import asyncio
import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from minicpmv.serve.direct import DirectServer, Reply
from minicpmv.serve.settings import ServeSettings

from ..helpers.serving import QUESTION, FakeBackend, fake_app

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ITEM = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
BODIES: list[tuple[str, Any]] = [
    (CHAT, QUESTION),
    (CHAT, {**QUESTION, "n": 2, "temperature": 1.0}),
    ("/v1/completions", {"model": "fake", "prompt": "Once"}),
    ("/v1/responses", {"model": "fake", "input": "How many?"}),
    (MESSAGES, {**QUESTION, "max_tokens": 5}),
    (CHAT, {**QUESTION, "model": "another"}),
    (CHAT, {**QUESTION, "max_tokens": 0}),
    (CHAT, {**QUESTION, "no_such_field": 1}),
    (CHAT, {**QUESTION, "messages": [{"role": "user", "content": [ITEM]}]}),
    (CHAT, b"{"),
    (CHAT, b""),
    (CHAT, b"[" * 100),
    (MESSAGES, {**QUESTION, "max_tokens": "many"}),
    ("/v1/decisions", {"model": "fake"}),
]


def bytes_of(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def without_names(body: bytes) -> bytes:
    """An answer without what differs each time: names that are drawn, and the clock."""
    text = re.sub(rb"[0-9a-f]{24,32}", b"NAME", body)
    return re.sub(rb'"(created|created_at|completed_at)":[0-9.]+', b'"at":0', text)


async def asked(backend: Any, path: str, body: bytes) -> Reply:
    async with DirectServer(ServeSettings(model=("fake",)), backend) as server:
        return await server.post(path, body)


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_the_answer_is_that_of_the_server(path: str, body: Any) -> None:
    with TestClient(fake_app()) as client:
        expected = client.post(path, content=bytes_of(body))
    found = asyncio.run(asked(FakeBackend(), path, bytes_of(body)))
    assert found.status == expected.status_code
    assert without_names(found.body) == without_names(expected.content)
    assert found.request_id


def test_an_error_of_the_program_is_a_failure_of_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = FakeBackend()
    backend.breaks = KeyError("not for clients")
    found = asyncio.run(asked(backend, CHAT, bytes_of(QUESTION)))
    assert found.status == 500
    assert found.request_id in json.loads(found.body)["error"]["message"]
    assert b"not for clients" not in found.body
    assert "not for clients" in caplog.text
