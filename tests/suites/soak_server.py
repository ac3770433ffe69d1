"""Keep a server busy with 64 unruly clients, and account for everything.

    python tests/suites/soak_server.py --minutes 30 [--upstream | --base-url URL]

Starts `minicpmv serve` with nano as it is by default; with `--upstream` two of them behind a third,
and kills one in the middle. Clients ask in five protocols, whole and streamed, draw several
answers, stop at texts, ask for answers of a form, go away before the first byte or in the middle,
stop reading, send broken pictures and wrong bodies. Every picture has an answer that was given
alone before; no answer may be lost, mixed or cut, and what is refused is refused with the right
status. At the end memory, files and threads are what they were after a warm-up, nothing is running,
the metrics have counted every request, and a server that is told to stop in the middle loses none
of the answers it has begun.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
from soak_clients import Client, Known, Tally, chat_body, httpx

from minicpmv.scenes import render

QUESTIONS = ("What colour is the background?", "How many figures are there?", "What is written?")
NUM_PICTURES = 40
GROWTH = 1.05  # of memory, from the warm-up to the end
WARM_UP_S = 20.0
COUNTED = ("request_success_total", "request_errors_total")


class Running:
    """A server of its own process."""

    def __init__(self, *flags: str):
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "minicpmv", "serve", "--port", str(self.port)]
        command += flags
        self.log = Path(tempfile.mkstemp(suffix=".log")[1])
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return
            time.sleep(0.2)
        raise SystemExit("the server did not start within two minutes")

    def end(self) -> list[str]:
        """Kill it; what it said that it should not."""
        self.process.kill()
        text = self.log.read_text()
        self.log.unlink()
        found = re.findall(r"Traceback.*(?:\n .*)*\n.*", text)
        return [f"{len(found)} tracebacks: {found[0]}"] if found else []

    def size(self) -> dict[str, int]:
        process = psutil.Process(self.process.pid)
        return {
            "memory": process.memory_info().rss,
            "files": process.num_fds(),
            "threads": process.num_threads(),
        }

    def value(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", trust_env=False, timeout=60).text
        found = re.findall(rf"^minicpmv:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))


async def known_answers(server: Running) -> list[Known]:
    """What the server answers when it is asked alone."""
    found = []
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        for seed in range(NUM_PICTURES):
            stream = io.BytesIO()
            render(seed, "test").image.save(stream, "png")
            picture = base64.b64encode(stream.getvalue()).decode()
            for question in QUESTIONS:
                body = chat_body(Known(picture, question, ""), False)
                answer = await http.post(f"{server.url}/v1/chat/completions", json=body)
                text = answer.json()["choices"][0]["message"]["content"]
                found.append(Known(picture, question, text))
    return found


async def soak(
    server: Running, seconds: float, clients: int, seed: int, victim: Running | None
) -> Tally:
    known, tally = await known_answers(server), Tally()
    print(f"{len(known)} questions, {len({each.answer for each in known})} answers")
    counted = [server.value(name) for name in COUNTED]

    async def run(seconds: float, first: int) -> None:
        until = time.monotonic() + seconds
        crowd = [Client(server.url, known, first + i, tally) for i in range(clients)]
        await asyncio.gather(*(client.work(until) for client in crowd))

    async def kill() -> None:
        if victim is not None:
            await asyncio.sleep(seconds / 2)
            tally.excused = time.monotonic() + 10
            victim.process.kill()

    await run(WARM_UP_S, seed)
    await asyncio.sleep(2)
    before = server.size()
    await asyncio.gather(run(seconds, seed + clients), kill())
    for _ in range(200):
        running = server.value("num_requests_running") + server.value("num_requests_waiting")
        if not running:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)
    after = server.size()
    for name, count in sorted(tally.counts.items()):
        print(f"{count:8}  {name}")
    print(f"before {before}\nafter  {after}\nrunning {running:.0f}")
    tally.check("nothing runs", running, 0)
    if after["memory"] > GROWTH * before["memory"]:
        tally.wrong.append(f"memory grew from {before['memory']} to {after['memory']}")
    for name in ("files", "threads"):
        if after[name] > before[name] + 16:
            tally.wrong.append(f"{name} grew from {before[name]} to {after[name]}")
    now = [server.value(name) for name in COUNTED]
    account(tally, *(new - old for new, old in zip(now, counted, strict=True)))
    return tally


def account(tally: Tally, answers: float, errors: float) -> None:
    """Compare what the server has counted with what was sent; one that left counts as either, or
    as nothing if it went before the server saw it.
    """
    sent, broken = tally.sent, tally.counts["broke off with a killed server"]
    expected = sent["success"] + 3 * sent["drawn"] + sent["error"]
    print(f"sent {dict(sent)}; counted {answers:.0f} answers, {errors:.0f} errors")
    excess = answers + errors - expected
    if not -3 * broken <= excess <= sent["left"] + 3 * broken:
        tally.wrong.append(f"{answers + errors:.0f} counted, {expected} expected")
    if errors < sent["error"] - 3 * broken:
        tally.wrong.append(f"{errors:.0f} errors counted, {sent['error']} expected")


async def stops_in_the_middle(server: Running, grace_ends: bool) -> Tally:
    """Tell a server to stop while it streams: with time left all answers are complete, else each
    ends with an error.
    """
    tally = Tally()
    body = {"model": "nano", "messages": [{"role": "user", "content": "Tell me a long story."}]}
    body |= {"max_tokens": 2000 if grace_ends else 60, "ignore_eos": True, "stream": True}
    begun = asyncio.Semaphore(0)

    async def stream() -> str:
        text = ""
        async with (
            httpx.AsyncClient(trust_env=False, timeout=120) as http,
            http.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer,
        ):
            async for part in answer.aiter_text():
                if not text:
                    begun.release()
                text += part
        return text

    stuck = [await stops_reading(server) for _ in range(4 * grace_ends)]
    tasks = [asyncio.create_task(stream()) for _ in range(16)]
    for _ in tasks:
        await begun.acquire()
    server.process.send_signal(signal.SIGTERM)
    for text in await asyncio.gather(*tasks):
        if grace_ends:
            tally.check("ended with an error", '"error"' in text.splitlines()[-2], True)
        else:
            tally.check("completed", text.rstrip().endswith("data: [DONE]"), True)
    tally.check("exit status", server.process.wait(30), 0)
    for each in stuck:
        each.close()
    print(f"stopped: {dict(tally.counts)}")
    return tally


async def stops_reading(server: Running) -> socket.socket:
    """A client that waits for a long answer and never reads it."""
    body = chat_body(Known("", "", ""), True, max_tokens=2000, ignore_eos=True)
    body |= {"messages": [{"role": "user", "content": "Tell me."}], "logprobs": True}
    data = json.dumps(body | {"top_logprobs": 20}).encode()
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.connect(("127.0.0.1", server.port))
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    found.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return found


class Given(Running):
    """A server that somebody else has started, on this machine."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.port = int(self.url.rsplit(":", 1)[1])
        found = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN)
        self.process = psutil.Process(next(c.pid for c in found if c.laddr.port == self.port))


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep a server busy, and account for it all.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--upstream", action="store_true", help="two servers behind a third")
    parser.add_argument("--base-url", help="a server that is running here; it is not stopped")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    wrong: list[str] = []
    behind = [Running() for _ in range(2 * arguments.upstream)]
    flags = ["--engine", "vllm", "--upstream", *(each.url for each in behind)] if behind else []
    started = list(behind)
    try:
        server = Given(arguments.base_url) if arguments.base_url else Running(*flags)
        if not arguments.base_url:
            started.append(server)
        seconds, victim = 60 * arguments.minutes, behind[0] if behind else None
        run = soak(server, seconds, arguments.clients, arguments.seed, victim)
        wrong += asyncio.run(run).wrong
        if not arguments.base_url:
            wrong += asyncio.run(stops_in_the_middle(server, grace_ends=False)).wrong
            started.append(Running("--grace", "1", *flags))
            wrong += asyncio.run(stops_in_the_middle(started[-1], grace_ends=True)).wrong
    finally:
        for each in started:
            wrong += each.end()
    for line in wrong[:50]:
        print(line)
    print(f"{len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
