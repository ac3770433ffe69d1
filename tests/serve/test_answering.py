"""How answers end: by themselves, with their client, with the server."""

import asyncio

import pytest

from minicpmv.serve.answering import Interruptible
from minicpmv.serve.errors import ClientGoneError

from ..helpers.serving import QUESTION, Exchange, FakeBackend, events_of, fake_app

STREAM = {**QUESTION, "stream": True}


def waiting_app(**settings):
    backend = FakeBackend()
    backend.waits = asyncio.Event()
    return backend, fake_app(backend, **settings)


@pytest.mark.parametrize("body", [QUESTION, STREAM])
def test_an_answer_ends_when_its_client_goes(body, capsys):
    async def run():
        backend, app = waiting_app()
        request = Exchange(app, body=body)
        await backend.started.wait()
        request.hang_up()
        await request.end()
        assert backend.closed == 1
        server = app.state.server
        assert (server.num_requests, server.answering) == (0, set())
        server.log.lines.flush()
        return server.metrics.render()[0].decode()

    page = asyncio.run(run())
    assert 'request_errors_total{code="client_gone"} 1.0' in page
    line = capsys.readouterr().err
    assert " 499 " in line
    assert "error=client_gone" in line


async def wait_in(block):
    async with block:
        await asyncio.Event().wait()


def test_a_client_that_goes_in_the_last_moment_takes_nothing_with_it():
    async def run():
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        server = fake_app().state.server
        block = Interruptible(server, receive)
        async with block:
            block.interrupt("gone")  # and the block ends before it is told
        await asyncio.sleep(0)  # would raise what was left behind
        assert asyncio.current_task().cancelling() == 0
        gone.set()
        with pytest.raises(ClientGoneError):
            await wait_in(Interruptible(server, receive))
        assert asyncio.current_task().cancelling() == 0

    asyncio.run(run())


def test_a_cancelled_request_is_not_taken_for_one_whose_client_went():
    async def run():
        backend, app = waiting_app()
        request = Exchange(app)
        await backend.started.wait()
        request.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request.task
        assert backend.closed == 1

    asyncio.run(run())


def test_a_silent_stream_sends_comments():
    async def run():
        backend, app = waiting_app(keep_alive=0.01)
        request = Exchange(app, body=STREAM)
        await request.until(": keep-alive\n\n: keep-alive\n\n")
        backend.waits.set()
        await request.end()
        chunks = events_of(request.text)
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == "There are three."
        assert request.text.endswith("data: [DONE]\n\n")

    asyncio.run(run())


def test_a_stream_that_waits_for_its_prompt_begins_with_a_comment():
    """What goes wrong later is an event then, since the status has been sent."""

    async def run():
        backend = FakeBackend()
        go = asyncio.Event()
        answer = backend.answer

        async def slow(job):
            await go.wait()
            async for event in answer(job):
                yield event

        backend.answer = slow
        backend.refuses = ValueError("nothing a client should know")
        app = fake_app(backend, keep_alive=0.01)
        request = Exchange(app, body=STREAM)
        await request.until(": keep-alive")
        go.set()
        await request.end()
        assert request.status == 200
        assert events_of(request.text)[-1]["error"]["code"] == "internal_error"

    asyncio.run(run())


def test_running_answers_end_before_the_server_does():
    async def run():
        backend, app = waiting_app()
        server = app.state.server
        running = [Exchange(app), Exchange(app, body=STREAM)]
        await backend.started.wait()
        stop = asyncio.create_task(server.drain(60))
        while not server.is_stopping:
            await asyncio.sleep(0)
        refused = await Exchange(app).end()
        assert refused.status == 503
        assert refused.headers["retry-after"]
        assert refused.headers["connection"] == "close"
        assert (await Exchange(app, "/health", b"", "GET").end()).status == 503
        backend.waits.set()
        await stop
        for each in running:
            await each.end()
            assert each.status == 200
        assert running[0].json["choices"][0]["message"]["content"] == "There are three."
        assert running[1].text.endswith("[DONE]\n\n")

    asyncio.run(run())


def test_after_the_grace_answers_end_with_an_error():
    async def run():
        backend, app = waiting_app()
        server = app.state.server
        whole, streamed = Exchange(app), Exchange(app, body=STREAM)
        await streamed.until("There")
        await server.drain(0)
        await asyncio.gather(whole.end(), streamed.end())
        assert whole.status == 503
        assert whole.json["error"]["code"] == "unavailable"
        assert events_of(streamed.text)[-1]["error"]["code"] == "unavailable"
        assert "[DONE]" not in streamed.text
        assert backend.closed == 2
        page = server.metrics.render()[0].decode()
        assert 'request_errors_total{code="unavailable"} 2.0' in page

    asyncio.run(run())


def test_clients_that_stopped_do_not_keep_the_server(monkeypatch):
    monkeypatch.setattr("minicpmv.serve.app._LAST_WORDS_S", 0.05)

    async def run():
        app = fake_app(max_body=2000)
        server = app.state.server
        half = Exchange(app, body=None)
        large = Exchange(app, body=None, headers=[("content-length", "9999")])
        deaf = Exchange(app, body=STREAM, is_deaf=True)
        await deaf.is_blocked.wait()
        while len(server.reading) < 2:
            await asyncio.sleep(0)
        await server.drain(0)
        await asyncio.gather(half.end(), large.end(), deaf.end())
        assert (half.status, half.json["error"]["code"]) == (503, "unavailable")
        assert large.status == 413
        assert server.num_requests == len(server.reading) == len(server.sending) == 0

    asyncio.run(run())
