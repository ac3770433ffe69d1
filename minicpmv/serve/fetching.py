"""Bytes of pictures from addresses, many at a time, none of which holds up the others for long.

Each download has a thread of a pool. No host and no request has more than a few of them, so that
slow ones leave room for others; nobody waits longer than the policy lets a download take, and a
download that nobody waits for any more is ended.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

from ..media.download import Abort, download
from ..media.policy import MediaPolicy, use_policy
from .sources import Source

NUM_THREADS = 64
PER_HOST = 8
PER_REQUEST = 8
SLACK_S = 5.0  # a name is resolved, and a thread waited for, beside the time of a download


class Fetcher:
    """Downloads for one event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(NUM_THREADS, "minicpmv-download")
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, source: Source, policy: MediaPolicy, places: asyncio.Semaphore) -> bytes:
        """What the address of a source gives.

        Args:
            places: of the request, for so many downloads at a time.

        Raises:
            ApiError: it takes too long.
            MediaRefusedError, ValueError, OSError: as `media.download.download`.
        """
        host = self._hosts.get(source.host)
        if host is None:
            host = self._hosts[source.host] = asyncio.Semaphore(PER_HOST)
        abort = Abort()

        def work() -> bytes:
            with use_policy(policy):
                return download(source.address or "", source.name, abort)

        limit_s = policy.deadline_s + SLACK_S
        try:
            async with asyncio.timeout(limit_s), places, host:
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise source.error(
                f"{source.name} cannot be fetched: timed out after {limit_s:g} s. Send it in a "
                "data: URL."
            ) from None
        finally:
            abort.set()
