"""Workers that are processes of their own: what they answer, and what happens at an end."""

import asyncio
import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from minicpmv import devices
from minicpmv.batch import processes as module
from minicpmv.batch import sizing
from minicpmv.batch.processes import ProcessWorker, processes
from minicpmv.batch.workers import Reply, WorkerLostError
from minicpmv.serve.settings import ServeSettings

CHAT = "/v1/chat/completions"
BODY = json.dumps(
    {
        "model": "nano",
        "temperature": 0,
        "max_tokens": 2,
        "messages": [{"role": "user", "content": "Hello"}],
    }
).encode()


def two_requests(settings: Any, pipe: Connection) -> None:
    """Ready at once, and gone at its second request."""
    pipe.send(None)
    number, *_ = pipe.recv()
    pipe.send((number, Reply(200, b"reply %d" % number)))
    pipe.recv()


def no_room(settings: Any, pipe: Connection) -> None:
    raise SystemExit("no room")


def nothing(settings: Any, pipe: Connection) -> None:
    pass


def test_a_process_answers_and_ends_with_its_parent() -> None:
    async def run() -> None:
        async with processes(1, {"model": ("nano",)}) as (worker,):
            assert (await worker.send(CHAT, BODY)).status == 200
            large = json.loads(BODY) | {"user": "x" * 10**6}
            replies = await asyncio.gather(
                *(worker.send(url, json.dumps(large).encode()) for url in (CHAT, CHAT))
            )
            assert [reply.status for reply in replies] == [200, 200]
            await worker.halt()
            worker.process.pipe.close()  # as when this process dies
            assert worker.process.exit_code() == 0

    asyncio.run(run())


def test_what_is_being_answered_is_lost_with_the_process_which_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "answer", two_requests)

    async def run() -> None:
        async with processes(1, {"model": ("nano",)}) as (worker,):
            assert (await worker.send(CHAT, BODY)).body == b"reply 1"
            former = worker.process.pid
            with pytest.raises(WorkerLostError, match="process 1 ended") as lost:
                await worker.send(CHAT, BODY)
            assert lost.value.counts
            with pytest.raises(WorkerLostError, match="process 1 is not there") as lost:
                await worker.send(CHAT, BODY)
            assert not lost.value.counts
            await worker.revive()
            assert (await worker.send(CHAT, BODY)).body == b"reply 3"
            assert worker.process.pid != former
        assert worker.process.exit_code() is not None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (no_room, r"one ended before it was ready: no room\."),
        (nothing, r"one ended before it was ready: exit code 0\."),
    ],
)
def test_a_process_that_ends_at_once_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any, told: str
) -> None:
    monkeypatch.setattr(module, "answer", work)

    async def run() -> None:
        worker = ProcessWorker("one", {"model": ("nano",)}, 1, tmp_path / "log")
        try:
            with pytest.raises(OSError, match=told):
                await worker.start()
        finally:
            worker.process.stop()

    asyncio.run(run())


def test_models_that_cannot_be_loaded_are_an_error_of_the_first_process(tmp_path: Path) -> None:
    async def run() -> None:
        async with processes(2, {"model": (str(tmp_path),)}):
            raise AssertionError("nothing could be loaded")

    with pytest.raises(OSError, match=tmp_path.name):
        asyncio.run(run())


def test_the_number_of_processes_follows_rows_cores_and_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free: Any = None
    is_small = True
    monkeypatch.setattr(sizing, "num_cores", lambda: 8)
    monkeypatch.setattr(sizing, "available_memory", lambda: free)
    monkeypatch.setattr(sizing, "is_small", lambda place, device: is_small)
    models = {"model": ("nano",)}
    assert sizing.num_processes(models, 0, 10**6) == 8
    assert sizing.num_processes(models, 0, 399) == 1
    assert sizing.num_processes(models, 0, 600) == 3
    assert sizing.num_processes(models, 2, 600) == 2
    assert sizing.num_processes({"model": ("nano", "other")}, 0, 10**6) == 1
    free = 5 << 30
    assert sizing.num_processes(models, 0, 10**6) == 2
    is_small = False
    assert sizing.num_processes(models, 0, 10**6) == 1
    monkeypatch.setattr(devices, "num_cores", lambda: 8)
    assert [devices.threads_of(n) for n in (1, 3, 20)] == [8, 2, 1]
    settings = ServeSettings(max_num_seqs=5)
    assert sizing.rows_at_a_time(settings) == 13
    assert sizing.rows_at_a_time(settings, 1) == 7
