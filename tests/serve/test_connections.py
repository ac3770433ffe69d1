"""A connection to the server, below the requests: what is no HTTP, and clients that stop."""

import asyncio
import json
import logging
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from minicpmv.serve.middleware import SILENCE_S
from minicpmv.serve.server import _Protocol

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


class Clock(asyncio.SelectorEventLoop):
    """A loop whose timers are run by hand.

    Attributes:
        timers: those that wait, with their seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.timers: dict[asyncio.TimerHandle, float] = {}

    def call_later(self, delay: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        handle = super().call_later(10**6, *args, **kwargs)
        self.timers[handle] = delay
        return handle

    def patience(self) -> list[asyncio.TimerHandle]:
        return [h for h, s in self.timers.items() if s == SILENCE_S and not h.cancelled()]

    def run_out(self) -> None:
        for handle in self.patience():
            del self.timers[handle]
            handle._run()


class Wire(asyncio.Transport):
    """What the server writes to a client."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def resume_reading(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Connection:
    """The server's side of one."""

    def __init__(self) -> None:
        self.loop = Clock()
        config = uvicorn.Config(hello, ws="none", lifespan="off", log_config=None)
        config.load()
        self.wire = Wire()
        self.protocol = _Protocol(config, ServerState(), {}, _loop=self.loop)
        self.protocol.connection_made(self.wire)

    def receive(self, data: bytes) -> None:
        async def answered() -> None:
            self.protocol.data_received(data)
            while self.protocol.tasks:
                await asyncio.sleep(0)

        self.loop.run_until_complete(answered())


@pytest.fixture
def connection() -> Any:
    one = Connection()
    yield one
    one.protocol.connection_lost(None)
    assert one.loop.patience() == []
    one.loop.close()


def error_of(wire: Wire, status: int) -> Any:
    head, _, body = wire.sent.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    assert head.startswith(str(status).encode())
    return json.loads(body)["error"]


def test_a_client_that_sends_nothing_is_left(connection: Connection) -> None:
    connection.loop.run_out()
    assert (connection.wire.sent, connection.wire.is_closed) == (b"", True)


@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"])
def test_a_client_that_stops_in_the_middle_of_a_head_is_told(
    connection: Connection, before: bytes
) -> None:
    if before:
        connection.receive(before)
    connection.receive(HEAD)
    connection.receive(b"X: y\r\n")  # which begins nothing anew
    assert len(connection.loop.patience()) == 1
    assert not connection.wire.is_closed
    connection.loop.run_out()
    assert error_of(connection.wire, 408)["code"] == "timeout"
    assert connection.wire.is_closed


def test_a_connection_between_two_requests_is_left_to_uvicorn(connection: Connection) -> None:
    connection.receive(HEAD + b"\r\n")
    assert connection.wire.sent.startswith(b"HTTP/1.1 200 ")
    assert connection.loop.patience() == []
    assert not connection.wire.is_closed


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", HEAD + b"X: " + b"y" * 10**6, b"\x16\x03\x01\r\n\r\n"]
)
def test_what_is_no_http_is_told(connection: Connection, data: bytes) -> None:
    connection.receive(data)
    error = error_of(connection.wire, 400)
    assert error["code"] == "invalid_http"
    assert "or its head is too large" in error["message"]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_another_protocol_is_offered_in_vain_and_in_silence(
    connection: Connection, protocol: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        connection.receive(HEAD + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n")
    assert connection.wire.sent.startswith(b"HTTP/1.1 200 ")
    assert caplog.messages == []
