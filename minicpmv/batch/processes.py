"""Servers of `minicpmv serve` as processes of this machine, for a batch alone."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

from .workers import ServerWorker, httpx, servers

START_S = 1800.0  # a large model is read from a slow disk, or fetched
_STOP_S = 10.0


@asynccontextmanager
async def local_servers(
    number: int, flags: Sequence[str], capacity: int, devices: Sequence[str] = ()
) -> AsyncIterator[list[ServerWorker]]:
    """Inside, that many servers answer; they share the cores, and end with the block.

    Args:
        flags: words for `minicpmv serve`: its models and settings.
        devices: that the servers take in turn; empty: what `flags` says.

    Raises:
        OSError: one ended before it was ready; the message has its last line.
    """
    threads = str(max(1, (os.cpu_count() or 1) // number))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    ports = [_free_port() for _ in range(number)]
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="minicpmv-batch-") as folder:
        logs = [Path(folder) / f"{port}.log" for port in ports]
        try:
            for n, (port, log) in enumerate(zip(ports, logs, strict=True)):
                device = ("--device", devices[n % len(devices)]) if devices else ()
                words = [sys.executable, "-m", "minicpmv", "serve", *flags, *device]
                words += ["--host", "127.0.0.1", "--port", str(port)]
                with log.open("wb") as file:
                    processes.append(_start(words, environment, file))
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            async with (
                servers(urls, capacity) as workers,
                httpx.AsyncClient(trust_env=False) as client,
            ):
                for url, process, log in zip(urls, processes, logs, strict=True):
                    await _wait(client, url, process, log)
                yield workers
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_S)
                process.kill()
                process.wait()


def _start(
    words: Sequence[str], environment: dict[str, str], log: IO[bytes]
) -> "subprocess.Popen[bytes]":
    # A session of its own: Ctrl-C tells the batch, which ends the servers.
    return subprocess.Popen(
        words,
        env=environment,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _wait(
    client: "httpx.AsyncClient", url: str, process: "subprocess.Popen[bytes]", log: Path
) -> None:
    async with asyncio.timeout(START_S):
        while True:
            if process.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
                raise OSError(f"A worker ended before it was ready: {lines[-1]}")
            with suppress(httpx.HTTPError):
                if (await client.get(f"{url}/health")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
