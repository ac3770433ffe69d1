"""Workers that are processes of their own: what goes over the pipes, and what happens at an end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv import devices
from minicpmv.batch import processes as module
from minicpmv.batch import sizing
from minicpmv.batch.frames import READY, read_reply, read_request, reply_frame, request_frame
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


def test_frames_are_read_as_they_were_written() -> None:
    async def run() -> None:
        stream = asyncio.StreamReader()
        stream.feed_data(request_frame(7, CHAT, b"\0\n") + request_frame(2**63, "/é", b""))
        assert await read_request(stream) == (7, CHAT, b"\0\n")
        assert await read_request(stream) == (2**63, "/é", b"")
        reply = Reply(404, "ü\n".encode() * 100_000, "name")
        stream.feed_data(reply_frame(3, reply) + reply_frame(4, Reply(200, b""))[:-1])
        stream.feed_eof()
        assert await read_reply(stream) == (3, reply)
        with pytest.raises(asyncio.IncompleteReadError):
            await read_reply(stream)

    asyncio.run(run())


def test_a_process_answers_and_ends_with_its_parent() -> None:
    async def run() -> None:
        async with processes(1, {"model": ("nano",)}) as (worker,):
            assert (await worker.send(CHAT, BODY)).status == 200
            process = worker._process
            assert process is not None
            assert process.stdin is not None
            process.stdin.close()  # as when this process dies
            assert await process.wait() == 0

    asyncio.run(run())


def test_what_is_being_answered_is_lost_with_the_process_which_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "stub.py"  # ready at once, and gone at its second request
    stub.write_text(
        f"""
import os
os.read(0, 10_000)
os.write(1, {reply_frame(READY, Reply(200, b""))!r})
os.read(0, 10_000)
os.write(1, {reply_frame(1, Reply(200, b"first"))!r} + {reply_frame(3, Reply(200, b"third"))!r})
os.read(0, 10_000)
"""
    )
    monkeypatch.setattr(module, "_PROGRAM", (str(stub),))

    async def run() -> None:
        async with processes(1, {"model": ("nano",)}) as (worker,):
            assert (await worker.send(CHAT, BODY)).body == b"first"
            former = worker._process
            with pytest.raises(WorkerLostError, match="process 1 ended") as lost:
                await worker.send(CHAT, BODY)
            assert lost.value.counts
            with pytest.raises(WorkerLostError, match="process 1 is not there") as lost:
                await worker.send(CHAT, BODY)
            assert not lost.value.counts
            await worker.revive()
            assert (await worker.send(CHAT, BODY)).body == b"third"
            last = worker._process
            assert last is not former
        assert last is not None
        assert last.returncode is not None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit('no room')", "ended before it was ready: no room"),
        ("pass", "nothing was said"),
    ],
)
def test_a_process_that_ends_at_once_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    monkeypatch.setattr(module, "_PROGRAM", ("-c", code))

    async def run() -> None:
        worker = ProcessWorker("one", {"model": ("nano",)}, 1, tmp_path / "log")
        try:
            with pytest.raises(OSError, match=told):
                await worker.start()
        finally:
            await worker.stop()

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
