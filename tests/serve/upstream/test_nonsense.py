"""What servers behind this one may answer that is no answer: one error each, and all goes on."""

import asyncio
import logging
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import PlainTextResponse

from minicpmv.serve.errors import ApiError
from minicpmv.serve.upstream.backend import VllmBackend
from minicpmv.serve.upstream.client import parsed
from minicpmv.serve.upstream.failures import UpstreamError, of_answer
from minicpmv.serve.upstream.pool import Upstream
from minicpmv.serve.upstream.stats import read_page

from ...helpers.before_vllm import run
from ...helpers.fake_vllm import FakeVllm

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{oops", b"\xff\xfe{}", b"7", b"[]", b"null", DEEP, b'{"a": ' + DEEP + b"}"),
        *(b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": "\\ud800"}', b'{"\\ud800": 1}'),
    ],
)
def test_what_cannot_be_sent_on_is_refused(data: bytes) -> None:
    with pytest.raises(UpstreamError, match="no chunk of an answer"):
        parsed(data)


@pytest.mark.parametrize(
    ("told", "wait"),
    [("7", 7), ("soon", 2), ("-1", 2), (None, 2), ("9" * 5000, 2), ("99999", 3600)],
)
def test_only_a_wait_of_seconds_is_passed_on(told: str | None, wait: int) -> None:
    assert of_answer(429, b"", told).error.retry_after == wait


@pytest.mark.parametrize("body", [DEEP, b'{"error": {"code": []}}', b'{"error": {"code": {}}}'])
def test_a_refusal_in_another_form_is_passed_on(body: bytes) -> None:
    found = of_answer(400, body).error
    assert (found.status, found.code) == (400, "invalid_value")
    assert len(found.message) <= 600


@pytest.mark.parametrize("value", ["1e999", "-5", "--", "."])
def test_numbers_of_a_page_that_are_none_count_nothing(value: str) -> None:
    page = f'vllm:num_requests_running{{model_name="m"}} {value}\n'
    assert read_page(page) == {"m": {"requests": {"running": 0}}}


def cards(*found: Any) -> dict[str, Any]:
    return {"data": list(found)}


class Odd(FakeVllm):
    """Says `answers` at paths, whatever is asked."""

    def __init__(self, **answers: Any):
        super().__init__()
        self.answers = answers

    async def _models(self) -> Any:
        found = self.answers.get("models", cards({"id": "nano"}))
        return PlainTextResponse(found) if isinstance(found, str) else found

    async def _tokenize(self, request: Request) -> Any:
        return self.answers["tokens"]

    async def _detokenize(self, request: Request) -> Any:
        return self.answers["tokens"]


@pytest.mark.parametrize(
    "models",
    [
        *(None, 7, [], {}, {"data": None}, {"data": "nano"}, cards(7), cards({}), "<html>"),
        *(cards({"id": None}), cards({"id": ""}), cards({"id": 7}), DEEP.decode()),
        *(cards({"id": "nano", "created": value}) for value in ("x", -1e15, 1e300, [])),
        *(cards({"id": "nano", "max_model_len": value}) for value in ("x", -5, 1e300)),
        '{"data": [{"id": "nano", "max_model_len": 1e999}]}',
        '{"data": [{"id": "\\ud800"}]}',
    ],
)
def test_a_server_that_tells_no_models_is_told_once_and_looked_at_again(
    models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = Odd(models=models)

    async def work(backend: VllmBackend) -> Any:
        with pytest.raises(ApiError, match="No server behind this one answers"):
            backend.models()
        while "does not answer" not in caplog.text:
            await asyncio.sleep(0.005)
        server.answers = {}
        while not backend._pool.servers[0].is_up:
            await asyncio.sleep(0.005)
        return [card.name for card in backend.models()]

    with caplog.at_level(logging.WARNING, "minicpmv.serve"):
        assert run([server], work, check_s=0.01) == ["nano"]
    assert caplog.text.count("does not answer") == 1


def test_a_server_that_never_answered_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Upstream("http://me:secret@a")
    with caplog.at_level(logging.WARNING, "minicpmv.serve"):
        server.fall("no connection")
        server.fall("no connection")
    assert caplog.messages == ["upstream http://a does not answer: no connection"]


@pytest.mark.parametrize("tokens", [{}, {"tokens": 7, "prompt": 7}, {"tokens": ["a"]}, {"a": 1}])
def test_tokens_that_are_none_are_an_error(tokens: Any) -> None:
    async def work(backend: VllmBackend) -> None:
        with pytest.raises(ApiError, match="no chunk of an answer"):
            await backend.tokenize("nano", "text")
        with pytest.raises(ApiError, match="no chunk of an answer"):
            await backend.detokenize("nano", [1])

    run([Odd(tokens=tokens)], work)
