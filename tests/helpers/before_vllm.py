"""A backend before fake servers."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

from minicpmv.serve.settings import ServeSettings
from minicpmv.serve.upstream.backend import VllmBackend

from .fake_vllm import FakeVllm


def backend_for(*servers: FakeVllm, **rest: Any) -> VllmBackend:
    urls = tuple(server.url for server in servers)
    timing = {name: rest.pop(name) for name in ("check_s", "stall_s") if name in rest}
    return VllmBackend(ServeSettings(engine="vllm", upstream=urls, **rest), **timing)


def run(
    servers: list[FakeVllm],
    work: Callable[[VllmBackend], Coroutine[Any, Any, Any]],
    **rest: Any,
) -> Any:
    """What `work` makes of a backend before running servers."""

    async def main() -> Any:
        backend = backend_for(*servers, **rest)
        await backend.start()
        try:
            return await work(backend)
        finally:
            await backend.stop()

    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server.running())
        return asyncio.run(main())
