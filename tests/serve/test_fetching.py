"""Downloads beside each other: slow ones, many of one host, and those that nobody waits for."""

import asyncio
import threading
from typing import Any

import pytest

from minicpmv.media.policy import MediaPolicy
from minicpmv.serve.content import MediaReader
from minicpmv.serve.errors import ApiError
from minicpmv.serve.fetching import PER_HOST, PER_REQUEST

from ..helpers.media_requests import colours, encoded, picture, request, settings, shown
from ..helpers.media_server import MediaServer, served
from ..helpers.serving import QUESTION, Exchange, FakeBackend, fake_app


def reader_of(**changes: Any) -> MediaReader:
    policy = MediaPolicy.remote(private_addresses=True, max_pixels=10_000, **changes)
    return MediaReader(settings(max_images=100), policy=policy)


async def in_thread(event: threading.Event) -> None:
    await asyncio.to_thread(event.wait)


def test_a_slow_address_does_not_hold_up_the_pictures_of_others() -> None:
    with served(fast=encoded("blue"), **{f"slow{n}": encoded() for n in range(99)}) as server:
        server.slow = {f"/slow{n}": threading.Event() for n in range(99)}

        async def run() -> None:
            reader = reader_of()
            slow = [shown(server.url(f"/slow{n}")) for n in range(99)]
            waiting = asyncio.ensure_future(reader.read(request(slow).messages))
            await in_thread(server.waiting)
            # Another host, as far as anyone can tell, and a picture that is there.
            fast = request([shown(server.url("/fast", "localhost")), shown(picture("red"))])
            assert colours(await reader.read(fast.messages)) == [(0, 0, 255), (255, 0, 0)]
            assert not waiting.done()
            assert len(server.asked) <= PER_REQUEST + 1
            waiting.cancel()
            await asyncio.wait([waiting])
            reader.close()

        asyncio.run(run())


def test_a_host_has_only_some_of_the_threads() -> None:
    with MediaServer() as server:
        server.slow = {f"/{n}": threading.Event() for n in range(40)}

        async def run() -> None:
            reader = reader_of()
            tasks = [
                asyncio.ensure_future(reader.read(request([shown(server.url(f"/{n}"))]).messages))
                for n in range(40)
            ]
            while len(server.asked) < PER_HOST:
                await asyncio.sleep(0.001)
            for _ in range(20):  # time for one more, if there were one
                await asyncio.sleep(0.001)
            assert len(server.asked) == PER_HOST
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            reader.close()

        asyncio.run(run())


def test_a_download_ends_when_nobody_waits_for_it() -> None:
    with served(slow=encoded()) as server:
        server.slow = {"/slow": threading.Event()}

        async def run() -> None:
            reader = reader_of()
            body = request([shown(server.url("/slow"))])
            task = asyncio.ensure_future(reader.read(body.messages))
            await in_thread(server.waiting)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await in_thread(server.left)
            reader.close()

        asyncio.run(run())


def test_an_error_ends_the_downloads_of_the_other_pictures() -> None:
    with served(slow=encoded()) as server:
        server.slow = {"/slow": threading.Event()}

        async def run() -> None:
            reader = reader_of()
            body = request([shown(server.url("/slow")), shown("data:image/png;base64,AAAA")])
            with pytest.raises(ApiError) as caught:
                await reader.read(body.messages)
            assert caught.value.param == "messages[0].content[1].image_url.url"
            if server.asked:
                await in_thread(server.left)
            reader.close()

        asyncio.run(run())


def test_a_server_that_answers_too_late_is_named() -> None:
    with served(slow=encoded()) as server:
        server.slow = {"/slow": threading.Event()}

        async def run() -> None:
            reader = reader_of(deadline_s=0.05)
            body = request([shown(server.url("/slow"))])
            with pytest.raises(ApiError) as caught:
                await reader.read(body.messages)
            assert caught.value.code == "invalid_image"
            assert "timed out" in caught.value.message
            reader.close()

        asyncio.run(run())


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_goes_takes_its_downloads_with_it(
    streams: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(slow=encoded()) as server:
        server.slow = {"/slow": threading.Event()}
        content = [shown(server.url("/slow"))]
        body = {**QUESTION, "messages": [{"role": "user", "content": content}], "stream": streams}

        async def run() -> None:
            app = fake_app(FakeBackend())
            app.state.server.media.close()
            app.state.server.media = reader_of()
            exchange = Exchange(app, body=body)
            await in_thread(server.waiting)
            exchange.hang_up()
            await exchange.end()
            await in_thread(server.left)
            app.state.server.media.close()

        asyncio.run(run())
    assert " 499 " in capsys.readouterr().err
