"""Clients of `soak_server.py`: five protocols, and no manners."""

import asyncio
import base64
import collections
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

try:
    import httpx2 as httpx
except ImportError:
    import httpx

LONGEST = 16


@dataclass(frozen=True)
class Known:
    """A question with the answer that it was given alone."""

    picture: str  # base64 of a PNG
    question: str
    answer: str


@dataclass
class Tally:
    """What was sent and what came of it.

    Fields:
        sent: requests that were sent whole, by how they must be counted in the server's metrics.
        drawn: by question, the answers of a seed; the same each time.
        excused: until when an answer may break off with an error, for a server was killed.
    """

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    sent: collections.Counter[str] = field(default_factory=collections.Counter)
    drawn: dict[Any, Any] = field(default_factory=dict)
    excused: float = 0.0

    def check(self, kind: str, found: Any, expected: Any) -> None:
        self.counts[kind] += 1
        if found != expected:
            self.wrong.append(f"{kind}: {found!r} in place of {expected!r}")


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


def generate_body(known: Known, streams: bool) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": LONGEST}
    fields = {"model": "nano", "prompt": known.question, "images": [known.picture]}
    return fields | {"options": options, "stream": streams}


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
    return str(event.get("message", {}).get("content") or event.get("response") or "")


PROTOCOLS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "/v1/chat/completions": (chat_body, chat_text),
    "/v1/responses": (responses_body, responses_text),
    "/v1/messages": (messages_body, messages_text),
    "/api/chat": (ollama_body, ollama_text),
    "/api/generate": (generate_body, ollama_text),
}
ENDS = ("data: [DONE]", "response.completed", "response.incomplete", "message_stop", '"done":true')


class Client:
    """One of the unruly clients."""

    def __init__(self, url: str, known: list[Known], seed: int, tally: Tally):
        self._url, self._known, self._tally = url, known, tally
        self._rng = random.Random(seed)
        self._http = httpx.AsyncClient(trust_env=False, timeout=120)

    async def work(self, until: float) -> None:
        acts = {
            self.asks: 8, self.streams: 8, self.leaves_early: 3, self.leaves: 3, self.draws: 1,
            self.stops_reading: 1, self.breaks_picture: 2, self.breaks_body: 2, self.decides: 1,
            self.stops_at: 1, self.chooses: 1, self.fills: 1, self.tires: 1,
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

    async def _post(self, path: str, body: Any, counted_as: str = "success") -> Any:
        answer = await self._http.post(self._url + path, json=body)
        self._tally.sent[counted_as if answer.status_code == 200 else "error"] += 1
        return answer

    def _is_excused(self, text: str) -> bool:
        """Whether an answer broke off because a server was killed just now, and says so."""
        excused = time.monotonic() < self._tally.excused and '"error"' in text
        self._tally.counts["broke off with a killed server"] += excused
        return excused

    async def asks(self) -> None:
        path, known, body, text_of = self._pick(streams=False)
        answer = await self._post(path, body)
        text = text_of(answer.json()) if answer.status_code == 200 else answer.text
        if not self._is_excused(answer.text):
            self._tally.check(f"whole {path}", text, known.answer)

    async def streams(self) -> None:
        path, known, body, text_of = self._pick(streams=True)
        answer = await self._post(path, body)
        has_end = any(end in answer.text.replace('": ', '":') for end in ENDS)
        text = "".join(text_of(e) for e in events_of(answer.text) if e.get("object") != "response")
        if not self._is_excused(answer.text):
            self._tally.check(f"streamed {path}", (text, has_end), (known.answer, True))

    async def _chat(self, kind: str, known: Known, **more: Any) -> list[Any] | None:
        """Texts and ends of a chat completion; None: it broke off with its server."""
        counted = "drawn" if more.get("n") else "success"
        answer = await self._post("/v1/chat/completions", chat_body(known, False, **more), counted)
        if self._is_excused(answer.text):
            return None
        if answer.status_code != 200:
            return [(answer.text, answer.status_code)]
        return [(c["message"]["content"], c["finish_reason"]) for c in answer.json()["choices"]]

    async def draws(self) -> None:
        known = self._rng.choice(self._known)
        found = await self._chat("drawn", known, n=3, seed=7, temperature=1.0)
        if found is not None:
            first = self._tally.drawn.setdefault(("drawn", known), found)
            self._tally.check("drawn", found, first)
            self._tally.check("three answers", len(found), 3)

    async def stops_at(self) -> None:
        known = self._rng.choice([each for each in self._known if len(each.answer) > 2])
        stop = known.answer[len(known.answer) // 2 :]
        found = await self._chat("stopped", known, stop=[stop])
        if found is not None:
            expected = known.answer[: known.answer.index(stop)]
            self._tally.check("stopped", found, [(expected, "stop")])

    async def chooses(self) -> None:
        known = self._rng.choice(self._known)
        choice = {"choice": ["quartz", "vermilion"]}
        found = await self._chat("chosen", known, structured_outputs=choice)
        if found is not None:
            first = self._tally.drawn.setdefault(("chosen", known), found)
            self._tally.check("chosen", found, first)
            self._tally.check("a choice", found[0][0] in choice["choice"], True)

    async def fills(self) -> None:
        known = self._rng.choice(self._known)
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["n"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}
        found = await self._chat("filled", known, response_format=form, max_tokens=64)
        if found is not None:
            first = self._tally.drawn.setdefault(("filled", known), found)
            self._tally.check("filled", found, first)
            text, end = found[0]
            self._tally.check("an object", end == "length" or "n" in json.loads(text), True)

    async def decides(self) -> None:
        known = self._rng.choice(self._known)
        choices = [{"value": known.answer}, {"value": "zebra crossing"}]
        question = {"type": "choice", "instructions": known.question, "choices": choices}
        body = {"model": "nano", "questions": [question]}
        body["input"] = responses_body(known, False)["input"]
        answer = await self._post("/v1/decisions", body)
        if self._is_excused(answer.text):
            return
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
        self._tally.sent["left"] += 1

    async def stops_reading(self) -> None:
        """Of an answer that is larger than what the sockets hold."""
        known = self._rng.choice(self._known)
        long = {"max_tokens": 400, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
        data = json.dumps(chat_body(known, True, **long)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        await self._raw(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data, 6.0)
        self._tally.counts["stopped reading"] += 1
        self._tally.sent["left"] += 1

    async def tires(self) -> None:
        """Wait for a whole answer a short time."""
        path, _, body, _ = self._pick(streams=False)
        self._tally.sent["left"] += 1
        with suppress(httpx.TimeoutException):
            await self._http.post(self._url + path, json=body, timeout=self._rng.uniform(0.05, 0.5))
        self._tally.counts["tired"] += 1

    async def _raw(self, data: bytes, seconds: float) -> None:
        place = self._url.removeprefix("http://").split(":")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (place[0], int(place[1])))
        _, writer = await asyncio.open_connection(sock=raw, limit=1024)
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
        self._tally.sent["left"] += 1

    async def breaks_picture(self) -> None:
        known = self._rng.choice(self._known)
        data = bytearray(base64.b64decode(known.picture))
        del data[self._rng.randrange(8, len(data) - 64) :]
        broken = Known(base64.b64encode(data).decode(), known.question, "")
        path = self._rng.choice(list(PROTOCOLS))
        answer = await self._post(path, PROTOCOLS[path][0](broken, False))
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
        self._tally.sent["error"] += 1
        self._tally.check("wrong body", answer.status_code, 400)
