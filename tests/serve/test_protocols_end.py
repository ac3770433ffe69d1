"""Answers of the other protocols end when their client goes, or the server stops."""

import asyncio

import pytest

from ..helpers.serving import Exchange, FakeBackend, fake_app

TURNS = [{"role": "user", "content": "How many?"}]
BODIES = {
    "/v1/responses": {"model": "fake", "input": "How many?"},
    "/v1/messages": {"model": "fake", "messages": TURNS, "max_tokens": 20},
    "/api/chat": {"model": "fake", "messages": TURNS},
    "/api/generate": {"model": "fake", "prompt": "How many?"},
}


def waiting_app(**settings):
    backend = FakeBackend()
    backend.waits = asyncio.Event()
    return backend, fake_app(backend, **settings)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_an_answer_ends_when_its_client_goes(path, stream):
    async def run():
        backend, app = waiting_app()
        request = Exchange(app, path, BODIES[path] | {"stream": stream})
        await backend.started.wait()
        request.hang_up()
        await request.end()
        assert backend.closed == 1
        assert app.state.server.num_requests == 0

    asyncio.run(run())


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_that_the_server_ends_says_so(path):
    async def run():
        backend, app = waiting_app()
        request = Exchange(app, path, BODIES[path] | {"stream": True})
        await request.until("There")
        await app.state.server.drain(0)
        await request.end()
        assert backend.closed == 1
        return request.text

    _, _, rest = asyncio.run(run()).partition("There")
    assert "The server is stopping" in rest


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_silence_is_filled_where_the_protocol_has_a_word_for_it(path):
    async def run():
        backend, app = waiting_app(keep_alive=0.01)
        request = Exchange(app, path, BODIES[path] | {"stream": True})
        await request.until("There")
        said = len(request.text)
        word = ": keep-alive" if path == "/v1/responses" else '{"type":"ping"}'
        while request.text.count(word, said) == 0:
            await asyncio.sleep(0.01)
        backend.waits.set()
        await request.end()
        return request.text

    assert "There" in asyncio.run(run())
