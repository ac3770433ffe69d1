"""What one worker process of a batch does: answers requests, many at a time, as they come.

It ends with whoever asks: the pipe that it reads from ends when that process does, however it dies.
"""

import asyncio
import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from ..serve.direct import DirectServer
from ..serve.settings import ServeSettings


def answer(settings: Mapping[str, Any], pipe: Connection) -> None:
    """Load models and answer with them, until the process that sends requests is gone.

    Args:
        settings: of `ServeSettings`, as keywords.
        pipe: brings (number, url, body), and takes (number, `Reply`) in any order.
    """
    asyncio.run(_answer(settings, pipe))


async def _answer(settings: Mapping[str, Any], pipe: Connection) -> None:
    server = DirectServer(ServeSettings(**settings))
    try:
        await server.__aenter__()
    except (OSError, ValueError, ImportError) as error:
        pipe.send(OSError(str(error)))
        return
    pipe.send(None)
    loop = asyncio.get_running_loop()
    answering: set[asyncio.Task[None]] = set()

    async def post(number: int, url: str, body: bytes) -> None:
        pipe.send((number, await server.post(url, body)))

    def begin(number: int, url: str, body: bytes) -> None:
        task = asyncio.create_task(post(number, url, body))
        answering.add(task)
        task.add_done_callback(answering.discard)

    def read() -> None:
        try:
            while True:
                loop.call_soon_threadsafe(begin, *pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # nobody waits for what is being computed

    await asyncio.to_thread(read)
