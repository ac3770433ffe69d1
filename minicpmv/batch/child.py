"""One worker process of a batch: `python -m minicpmv.batch.child`, started by `processes`.

It reads its settings as one line of JSON, then requests, and ends with its parent: what it reads
from ends when that process does, however it dies.
"""

import asyncio
import json
import os
from typing import Any, BinaryIO

from ..serve.direct import DirectServer, Reply
from ..serve.settings import ServeSettings
from .frames import LIMIT, READY, read_request, reply_frame


async def answer(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests as they come, until the process that sends them is gone.

    Args:
        source, sink: pipes that are read from and written to.
    """
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader(LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), source)
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), sink
    )
    replies = asyncio.StreamWriter(transport, protocol, None, loop)
    given = json.loads(await requests.readline())
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    server = DirectServer(ServeSettings(**settings))
    try:
        await server.__aenter__()
    except (OSError, ValueError, ImportError) as error:
        replies.write(reply_frame(READY, Reply(500, str(error).encode("utf-8", "replace"))))
        await replies.drain()
        return
    replies.write(reply_frame(READY, Reply(200, b"")))
    answering: set[asyncio.Task[None]] = set()

    async def post(number: int, url: str, body: bytes) -> None:
        replies.write(reply_frame(number, await server.post(url, body)))

    while True:
        try:
            task = asyncio.create_task(post(*await read_request(requests)))
        except asyncio.IncompleteReadError:
            os._exit(0)  # nobody waits for what is being computed
        answering.add(task)
        task.add_done_callback(answering.discard)


def main() -> None:
    # Whatever else is printed in this process must not come between the replies.
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    asyncio.run(answer(os.fdopen(os.dup(0), "rb", buffering=0), sink))


if __name__ == "__main__":
    main()
