"""Keep a server busy with 64 unruly clients, and account for everything.

    python tests/suites/soak_server.py --minutes 30

Starts `minicpmv serve` with nano in float32. Clients ask in four protocols, whole and streamed, go
away before the first byte or in the middle, stop reading, send broken pictures and wrong bodies.
Every picture has an answer that was given alone before; no answer may be lost, mixed or cut, and
what is refused is refused with the right status. At the end memory, files and threads are what they
were after a warm-up, nothing is running, and a server that is told to stop in the middle loses none
of the answers it has begun.
"""

import argparse
import asyncio
import base64
import collections
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

try:
    import httpx2 as httpx
except ImportError:
    import httpx

from minicpmv.scenes import render

QUESTIONS = ("What colour is the background?", "How many figures are there?", "What is written?")
NUM_PICTURES = 40
LONGEST = 16
GROWTH = 1.05  # of memory, from the warm-up to the end
WARM_UP_S = 20.0


@dataclass(frozen=True)
class Known:
    """A question with the answer that it was given alone."""

    picture: str  # base64 of a PNG
    question: str
    answer: str


@dataclass
class Tally:
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self, kind: str, found: Any, expected: Any) -> None:
        self.counts[kind] += 1
        if found != expected:
            self.wrong.append(f"{kind}: {found!r} in place of {expected!r}")


class Running:
    """A server of its own process."""

    def __init__(self, *flags: str):
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "minicpmv", "serve", "--port", str(self.port)]
        command += ["--dtype", "float32", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return
            time.sleep(0.2)
        raise SystemExit("the server did not start within two minutes")

    def size(self) -> dict[str, int]:
        process = psutil.Process(self.process.pid)
        return {
            "memory": process.memory_info().rss,
            "files": process.num_fds(),
            "threads": process.num_threads(),
        }

    def gauge(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        found = re.findall(rf"^minicpmv:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))


# What a client sends, and where the text is in what comes back.


def chat_body(known: Known, streams: bool, **more: Any) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{known.picture}"}},
        {"type": "text", "text": known.question},
    ]
    fields = {"model": "nano", "messages": [{"role": "user", "content": content}]}
    return fields | {"max_tokens": LONGEST, "temperature": 0, "stream": streams} | more


def responses_body(known: Known, streams: bool) -> dict[str, Any]:
    content = [
        {"type": "input_image", "image_url": f"data:image/png;base64,{known.picture}"},
        {"type": "input_text", "text": known.question},
    ]
    fields = {"model": "nano", "input": [{"role": "user", "content": content}]}
    return fields | {"max_output_tokens": LONGEST, "temperature": 0, "stream": streams}


def messages_body(known: Known, streams: bool) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": known.picture}
    content = [{"type": "image", "source": source}, {"type": "text", "text": known.question}]
    fields = {"model": "nano", "messages": [{"role": "user", "content": content}]}
    return fields | {"max_tokens": LONGEST, "temperature": 0, "stream": streams}


def ollama_body(known: Known, streams: bool) -> dict[str, Any]:
    message = {"role": "user", "content": known.question, "images": [known.picture]}
    options = {"temperature": 0, "num_predict": LONGEST}
    return {"model": "nano", "messages": [message], "options": options, "stream": streams}


def events_of(text: str) -> Iterator[dict[str, Any]]:
    """What a stream holds: server-sent events, or lines of JSON."""
    for line in text.splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            yield json.loads(line)


def chat_text(event: dict[str, Any]) -> str:
    found = [c.get("message") or c.get("delta") for c in event.get("choices", ())]
    return "".join(part.get("content") or "" for part in found)


def responses_text(event: dict[str, Any]) -> str:
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    if event.get("object") != "response":
        return ""
    return "".join(part["text"] for item in event["output"] for part in item["content"])


def messages_text(event: dict[str, Any]) -> str:
    if event.get("type") == "message":
        return "".join(block["text"] for block in event["content"])
    return str(event.get("delta", {}).get("text") or "")


def ollama_text(event: dict[str, Any]) -> str:
    return str(event.get("message", {}).get("content") or "")


PROTOCOLS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "/v1/chat/completions": (chat_body, chat_text),
    "/v1/responses": (responses_body, responses_text),
    "/v1/messages": (messages_body, messages_text),
    "/api/chat": (ollama_body, ollama_text),
}
ENDS = ("data: [DONE]", "response.completed", "response.incomplete", "message_stop", '"done":true')


class Client:
    """One of the unruly clients."""

    def __init__(self, server: Running, known: list[Known], seed: int, tally: Tally):
        self._url, self._known, self._tally = server.url, known, tally
        self._rng = random.Random(seed)
        self._http = httpx.AsyncClient(trust_env=False, timeout=120)

    async def work(self, until: float) -> None:
        acts = {
            self.asks: 8, self.streams: 8, self.leaves_early: 3, self.leaves: 3, self.draws: 1,
            self.stops_reading: 1, self.breaks_picture: 2, self.breaks_body: 2, self.decides: 1,
        }  # fmt: skip
        async with self._http:
            while time.monotonic() < until:
                act = self._rng.choices(list(acts), list(acts.values()))[0]
                await act()

    def _pick(self, streams: bool) -> tuple[str, Known, dict[str, Any], Any]:
        path = self._rng.choice(list(PROTOCOLS))
        known = self._rng.choice(self._known)
        body_of, text_of = PROTOCOLS[path]
        return path, known, body_of(known, streams), text_of

    async def asks(self) -> None:
        path, known, body, text_of = self._pick(streams=False)
        answer = await self._http.post(self._url + path, json=body)
        text = text_of(answer.json()) if answer.status_code == 200 else answer.text
        self._tally.check(f"whole {path}", text, known.answer)

    async def streams(self) -> None:
        path, known, body, text_of = self._pick(streams=True)
        answer = await self._http.post(self._url + path, json=body)
        has_end = any(end in answer.text.replace('": ', '":') for end in ENDS)
        text = "".join(text_of(e) for e in events_of(answer.text) if e.get("object") != "response")
        self._tally.check(f"streamed {path}", (text, has_end), (known.answer, True))

    async def draws(self) -> None:
        known = self._rng.choice(self._known)
        body = chat_body(known, False, n=3, seed=7) | {"temperature": 1.0}
        answer = await self._http.post(f"{self._url}/v1/chat/completions", json=body)
        self._tally.check("drawn", len(answer.json().get("choices", ())), 3)

    async def decides(self) -> None:
        known = self._rng.choice(self._known)
        choices = [{"value": known.answer}, {"value": "zebra crossing"}]
        question = {"type": "choice", "instructions": known.question, "choices": choices}
        body = {"model": "nano", "questions": [question]}
        body["input"] = responses_body(known, False)["input"]
        answer = await self._http.post(f"{self._url}/v1/decisions", json=body)
        found = answer.json()["answers"][0] if answer.status_code == 200 else answer.text
        self._tally.check("decided", isinstance(found, dict) and found["choice"], known.answer)

    async def leaves_early(self) -> None:
        """Before the first byte, or before all of the body is sent."""
        path, _, body, _ = self._pick(self._rng.random() < 0.5)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        sent = self._rng.choice([len(data), len(data) // 2])
        await self._raw(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data[:sent], 0.05)
        self._tally.counts["left early"] += 1

    async def stops_reading(self) -> None:
        _, _, body, _ = self._pick(streams=True)
        data = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        await self._raw(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data, 3.0)
        self._tally.counts["stopped reading"] += 1

    async def _raw(self, data: bytes, seconds: float) -> None:
        place = self._url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(place[0], int(place[1]), limit=1024)
        writer.write(data)
        with suppress(ConnectionError):
            await writer.drain()
            await asyncio.sleep(seconds * self._rng.random())
        writer.transport.abort()

    async def leaves(self) -> None:
        path, _, body, _ = self._pick(streams=True)
        async with self._http.stream("POST", self._url + path, json=body) as answer:
            async for _ in answer.aiter_bytes():
                if self._rng.random() < 0.5:
                    break
        self._tally.counts["left"] += 1

    async def breaks_picture(self) -> None:
        known = self._rng.choice(self._known)
        data = bytearray(base64.b64decode(known.picture))
        del data[self._rng.randrange(8, len(data) - 64) :]
        broken = Known(base64.b64encode(data).decode(), known.question, "")
        path = self._rng.choice(list(PROTOCOLS))
        answer = await self._http.post(self._url + path, json=PROTOCOLS[path][0](broken, False))
        self._tally.check("broken picture", answer.status_code, 400)

    async def breaks_body(self) -> None:
        path, _, body, _ = self._pick(streams=False)
        if self._rng.random() < 0.5:
            body[self._rng.choice(["frobnicate", "spam"])] = 1
            data = json.dumps(body)
        else:
            data = json.dumps(body)[: self._rng.randrange(1, 200)]
        headers = {"content-type": "application/json"}
        answer = await self._http.post(self._url + path, content=data, headers=headers)
        self._tally.check("wrong body", answer.status_code, 400)


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


async def soak(server: Running, seconds: float, clients: int, seed: int) -> Tally:
    known, tally = await known_answers(server), Tally()
    print(f"{len(known)} questions, {len({each.answer for each in known})} answers")

    async def run(seconds: float, first: int) -> None:
        until = time.monotonic() + seconds
        crowd = [Client(server, known, first + i, tally) for i in range(clients)]
        await asyncio.gather(*(client.work(until) for client in crowd))

    await run(WARM_UP_S, seed)
    await asyncio.sleep(2)
    before = server.size()
    await run(seconds, seed + clients)
    for _ in range(100):
        running = server.gauge("num_requests_running") + server.gauge("num_requests_waiting")
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
    return tally


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
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep a server busy, and account for it all.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wrong: list[str] = []
    server = Running()
    try:
        run = soak(server, 60 * arguments.minutes, arguments.clients, arguments.seed)
        wrong += asyncio.run(run).wrong
        wrong += asyncio.run(stops_in_the_middle(server, grace_ends=False)).wrong
        server = Running("--grace", "1")
        wrong += asyncio.run(stops_in_the_middle(server, grace_ends=True)).wrong
    finally:
        server.process.kill()
    for line in wrong[:50]:
        print(line)
    print(f"{len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
