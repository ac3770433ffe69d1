"""Several prompts in one request: their answers side by side, as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from .jobs import Event, Finished, Piece, Started


async def merged(
    streams: Sequence[AsyncGenerator[Event, None]], num_each: int
) -> AsyncGenerator[Event, None]:
    """The events of several jobs; answer `j` of the i-th has the index `i * num_each + j`.

    Nothing comes before all prompts have been read, so that one that is refused refuses the whole
    request. The first error ends all.
    """
    arrived: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()

    async def pull(place: int, stream: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    arrived.put_nowait((place, event))
            arrived.put_nowait((place, None))
        except Exception as error:  # handed over to the reader, raised there
            arrived.put_nowait((place, error))

    tasks = [asyncio.create_task(pull(*each)) for each in enumerate(streams)]
    num_open, num_read, num_tokens = len(tasks), 0, 0
    held: list[Event] = []
    try:
        while num_open:
            place, event = await arrived.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                num_open -= 1
            elif isinstance(event, Started):
                num_read += 1
                num_tokens += event.num_input_tokens
                if num_read == len(tasks):
                    yield Started(num_tokens)
                    for each in held:
                        yield each
            else:
                event = _moved(event, place * num_each)
                if num_read < len(tasks):
                    held.append(event)
                else:
                    yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _moved(event: Piece | Finished, by: int) -> Piece | Finished:
    return replace(event, index=event.index + by)
