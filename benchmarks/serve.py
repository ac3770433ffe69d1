"""Time `minicpmv serve` and, in the same run, `transformers serve` with the same model.

    python benchmarks/serve.py [--clients 32] [--pictures 96] [--rounds 3] [--only different ...]
    python benchmarks/serve.py --only memory --requests 100000

Servers are processes of their own, and requests come from this one over the loopback. The peer
computes in float32, ours in `--dtype`: by default as `minicpmv serve` does where nothing is said.
Rounds take turns, so that both have the same moments of the machine. What counts are ratios of one
run. The rows:

    different   requests per second, each client with a picture that nobody has seen
    same        the same with other questions about pictures that were shown before
    first       time to the first text of a stream, where each picture is a new one
    overhead    processor time of the server for a request, less that of the engine alone for the
                same requests (as `Chat.live` in a process without HTTP), with pictures known
    second      time of the second request about a picture, against the first, one client
    memory      resident memory after `--requests` requests about 32 pictures, against that after
                1,000; with `--new`, caches of pictures and features fill up to their limits, too

The peer needs `pip install "transformers[serving]"`; `--no-peer` leaves it out.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from minicpmv.bench.machine import OtherLoad, machine_facts

ROWS = ("different", "same", "first", "overhead", "second", "memory")
QUESTIONS = (
    "What colour is the star?",
    "How many shapes are there?",
    "What shape is blue?",
    "Is there a green triangle?",
    "Is there a red heart?",
)
SCENE = Path(__file__).parents[1] / "examples" / "scene.png"
NANO = Path(str(files("minicpmv"))) / "nano"
# transformers' server finds the classes by their import.
PEER = "import minicpmv.auto; from transformers.cli.transformers import main; main()"
TARGETS = {
    "different": ("at least 4 times", lambda found: found >= 4),
    "same": ("at least 10 times", lambda found: found >= 10),
    "first": ("at most 1/4", lambda found: found <= 1 / 4),
    "overhead": ("at most 3 ms", lambda found: found <= 3),
    "second": ("at most 1/8", lambda found: found <= 1 / 8),
    "memory": ("within 2 %", lambda found: found <= 1.02),
}
_SMALL = 112  # pixels of a side: one slice
_WARM_UP = 1000  # requests before the memory is read for the first time


@dataclass
class Server:
    """A server of its own process."""

    name: str
    model: str
    process: subprocess.Popen[bytes]
    port: int
    found: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def note(self, row: str, value: float) -> None:
        self.found.setdefault(row, []).append(value)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@dataclass(frozen=True)
class Ask:
    """A request as it goes over the line, but for the name of the model.

    Fields:
        key: equal for the same picture and question.
    """

    key: str
    picture: str
    question: str

    def body(self, model: str, streams: bool) -> bytes:
        content = [
            {"type": "image_url", "image_url": {"url": self.picture}},
            {"type": "text", "text": self.question},
        ]
        fields = {"model": model, "messages": [{"role": "user", "content": content}]}
        return json.dumps(fields | {"max_tokens": 16, "temperature": 0, "stream": streams}).encode()


@dataclass(frozen=True)
class Told:
    """What came back, and after how many seconds: the first text, and the end."""

    text: str
    first_s: float
    whole_s: float


class Line:
    """One kept connection. As little as may be is done here: the processors are the servers'."""

    def __init__(self, server: Server):
        self._server = server
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, ask: Ask, streams: bool = False) -> Told:
        """
        Raises:
            SystemExit: the server refuses it, or says no text.
        """
        body = ask.body(self._server.model, streams)
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._server.port)
        reader, writer = self._streams
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        begin = time.perf_counter()
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        if "content-length" in fields:
            data = await reader.readexactly(int(fields["content-length"]))
            if " 200 " not in lines[0]:
                raise SystemExit(f"{self._server.name}: {lines[0]}: {data[:500].decode()}")
            text = json.loads(data)["choices"][0]["message"]["content"]
            whole = time.perf_counter() - begin
            told = Told(text, whole, whole)
        else:
            told = await self._streamed(reader, begin)
        if fields.get("connection") == "close":
            self.close()
        return told

    async def _streamed(self, reader: asyncio.StreamReader, begin: float) -> Told:
        text, first = "", 0.0
        while size := int(await reader.readline(), 16):
            part = (await reader.readexactly(size + 2)).decode()
            for line in part.splitlines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise SystemExit(f"{self._server.name}: {line}")
                piece = "".join(c["delta"].get("content") or "" for c in event["choices"])
                first = first or (time.perf_counter() - begin if piece else 0.0)
                text += piece
        await reader.readline()
        return Told(text, first, time.perf_counter() - begin)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def asked(
    server: Server, asks: Sequence[Ask], num_clients: int, streams: bool = False
) -> tuple[float, list[Told]]:
    """Seconds for all of them by so many clients, and the answers in order."""
    told: list[Told | None] = [None] * len(asks)
    left = iter(range(len(asks)))

    async def client() -> None:
        line = Line(server)
        for index in left:
            told[index] = await line.ask(asks[index], streams)
        line.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(num_clients)))
    seconds = time.perf_counter() - begin
    found = [each for each in told if each is not None]
    for ask, each in zip(asks, found, strict=True):
        server.texts[ask.key] = each.text
    return seconds, found


class Pictures:
    """Scenes that nobody has seen: the example with its shapes moved and its colours changed."""

    def __init__(self, seed: int):
        self._scene = Image.open(SCENE).convert("RGB")
        self._rng = random.Random(seed)
        self._number = 0

    def new(self, number: int, side: int | None = None) -> list[str]:
        """So many, as data URLs; of `side` pixels where that is given."""
        return [self._one(side) for _ in range(number)]

    def _one(self, side: int | None) -> str:
        self._number += 1
        offset = self._rng.randrange(-24, 25), self._rng.randrange(-24, 25)
        scene = Image.new("RGB", self._scene.size, "white")
        scene.paste(self._scene, offset)
        scene = scene if side is None else scene.resize((side, side))
        scene.putpixel((0, 0), tuple(self._number.to_bytes(3, "big")))  # no two are the same
        file = io.BytesIO()
        scene.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def asks_of(pictures: Sequence[str], *questions: str) -> list[Ask]:
    return [
        Ask(f"{hash(picture)} {question}", picture, question)
        for question in questions
        for picture in pictures
    ]


@dataclass
class Run:
    """The servers, what they are asked, and how often."""

    args: argparse.Namespace
    servers: list[Server]
    pictures: Pictures

    async def in_turns(self, measure: Callable[[Server, int], Awaitable[None]]) -> None:
        for number in range(self.args.rounds):
            order = self.servers if number % 2 == 0 else self.servers[::-1]
            for server in order:
                await measure(server, number)

    async def different(self) -> None:
        rounds = [self.pictures.new(self.args.pictures) for _ in range(self.args.rounds)]

        async def measure(server: Server, number: int) -> None:
            await self._rate(server, "different", asks_of(rounds[number], QUESTIONS[0]))

        await self.in_turns(measure)

    async def same(self) -> None:
        rounds = [self.pictures.new(self.args.clients) for _ in range(self.args.rounds)]

        async def measure(server: Server, number: int) -> None:
            await asked(server, asks_of(rounds[number], QUESTIONS[0]), self.args.clients)
            await self._rate(server, "same", asks_of(rounds[number], *QUESTIONS[1:]))

        await self.in_turns(measure)

    async def _rate(self, server: Server, row: str, asks: Sequence[Ask]) -> None:
        """Requests per second, and processor milliseconds of each."""
        begin = server.cpu_seconds()
        seconds, _ = await asked(server, asks, self.args.clients)
        server.note(row, len(asks) / seconds)
        server.note(f"{row}, CPU", 1000 * (server.cpu_seconds() - begin) / len(asks))

    async def first(self) -> None:
        rounds = [self.pictures.new(self.args.pictures) for _ in range(self.args.rounds)]

        async def measure(server: Server, number: int) -> None:
            asks = asks_of(rounds[number], QUESTIONS[0])
            _, told = await asked(server, asks, self.args.clients, streams=True)
            server.note("first", statistics.median(each.first_s for each in told))

        await self.in_turns(measure)

    async def overhead(self) -> None:
        """Of ours alone."""
        server = self.servers[0]
        for _ in range(self.args.rounds):
            pictures = self.pictures.new(self.args.clients)
            asks = asks_of(pictures, *QUESTIONS)
            repeated = asks * max(self.args.pictures // self.args.clients, 1)
            await asked(server, asks, self.args.clients)
            begin = server.cpu_seconds()
            await asked(server, repeated, self.args.clients)
            per_request = (server.cpu_seconds() - begin) / len(repeated)
            alone = await self._engine_alone(asks, repeated)
            server.note("server", per_request * 1000)
            server.note("alone", alone * 1000)
            server.note("overhead", (per_request - alone) * 1000)

    async def _engine_alone(self, asks: Sequence[Ask], repeated: Sequence[Ask]) -> float:
        """Processor seconds of a request where there is no server."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            pairs = [[[ask.picture, ask.question] for ask in some] for some in (asks, repeated)]
            json.dump(pairs, file)
            file.flush()
            words = [sys.executable, __file__, "--engine", file.name]
            words += ["--clients", str(self.args.clients), "--dtype", self.args.dtype]
            process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
            out, _ = await process.communicate()
        return float(out)

    async def second(self) -> None:
        """By one client, which keeps its connection as clients of OpenAI's protocol do."""
        server = self.servers[0]
        firsts, seconds = [], []
        line = Line(server)
        for picture in self.pictures.new(max(self.args.pictures // 4, 4)):
            first, second = asks_of([picture], *QUESTIONS[:2])
            firsts.append((await line.ask(first)).whole_s)
            seconds.append((await line.ask(second)).whole_s)
        line.close()
        server.note("first request", statistics.median(firsts))
        server.note("second request", statistics.median(seconds))
        server.note("second", statistics.median(seconds) / statistics.median(firsts))

    async def memory(self) -> None:
        """Small pictures, some of them new ones; streamed and whole."""
        server, done, readings = self.servers[0], 0, {}
        shown = self.pictures.new(32, _SMALL)
        while done < self.args.requests:
            some = self.pictures.new(self.args.new, _SMALL)
            some += random.Random(done).choices(shown, k=max(32 - len(some), 0))
            question = random.Random(done).choice(QUESTIONS)
            await asked(server, asks_of(some, question), self.args.clients, bool(done // 32 % 2))
            server.texts.clear()
            before, done = done, done + len(some)
            for reading in (_WARM_UP, self.args.requests):
                if before < reading <= done:
                    readings[reading] = server.memory()
            if before // 5000 < done // 5000:
                print(f"  {done:,} requests, {server.memory() / 1e6:.1f} MB", file=sys.stderr)
        early, late = readings.get(_WARM_UP, server.memory()), server.memory()
        server.note("memory after 1,000", early / 1e6)
        server.note(f"memory after {done:,}", late / 1e6)
        server.note("memory", late / early)


async def engine_alone(file: str, num_clients: int, dtype: str) -> None:
    """Print the processor seconds of a request to the engine, with what a server would share."""
    from minicpmv import load
    from minicpmv.media.image import load_image

    chat = load("nano", device="cpu", dtype=dtype, progress=False)
    warm_up, asks = json.loads(Path(file).read_text(encoding="utf-8"))
    images = {url: load_image(url) for url, _ in warm_up}
    loop = asyncio.get_running_loop()

    async def ask_all(pairs: Sequence[Sequence[str]]) -> None:
        left = iter(pairs)

        async def client() -> None:
            for url, question in left:
                content = [
                    {"type": "image", "image": images[url]},
                    {"type": "text", "text": question},
                ]
                messages = [{"role": "user", "content": content}]
                options = {"sampling": False, "num_beams": 1, "max_new_tokens": 16}
                live = await asyncio.to_thread(chat.live, messages, loop, **options)
                async for _ in live:
                    pass

        await asyncio.gather(*(client() for _ in range(num_clients)))

    await ask_all(warm_up)
    begin = time.process_time()
    await ask_all(asks)
    print((time.process_time() - begin) / len(asks))


@contextlib.contextmanager
def serving(name: str, command: Sequence[str], model: str) -> Iterator[Server]:
    """A server that answers.

    Raises:
        SystemExit: it does not begin to.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, *command, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.2)
            if process.poll() is not None:
                log.seek(0)
                raise SystemExit(f"{name} ended: {log.read()[-2000:].decode()}")
            yield Server(name, model, process, port)
        finally:
            process.terminate()
            process.wait(60)


def report(run: Run, facts: dict[str, Any], load: float, as_json: bool) -> None:
    ours, *peers = run.servers
    values = {
        server.name: {row: statistics.median(all_) for row, all_ in server.found.items()}
        for server in run.servers
    }
    own, ratios = values[ours.name], {}
    for row in ("different", "same", "first"):
        for peer in peers:
            if row in own:
                pairs = zip(ours.found[row], peer.found[row], strict=True)
                ratios[row] = statistics.median(mine / theirs for mine, theirs in pairs)
    ratios |= {row: own[row] for row in ("overhead", "second", "memory") if row in own}
    same = {key: ours.texts[key] == text for peer in peers for key, text in peer.texts.items()
            if key in ours.texts}  # fmt: skip
    if as_json:
        found = {"machine": facts, "other_load": load, "values": values, "ratios": ratios}
        found["same_answers"] = [sum(same.values()), len(same)]
        print(json.dumps(found, indent=2))
        return
    print(f"{facts['processor']}, {facts['threads']} threads; {facts['date']}; commit "
          f"{facts['commit']}; others took {load:.0%} of the processors")  # fmt: skip
    print(f"{run.args.clients} clients, {run.args.rounds} rounds, {run.args.dtype}; "
          f"{sum(same.values())} of {len(same)} answers are the same")  # fmt: skip
    units = {"different": "requests/s", "same": "requests/s", "memory": "times", "second": "times"}
    units |= {"overhead": "ms", "server": "ms", "alone": "ms"}
    for name, rows in values.items():
        for row, value in rows.items():
            usual = "MB" if row.startswith("memory") else "ms" if "CPU" in row else "s"
            print(f"  {name:20} {row:22} {value:10.3f} {units.get(row, usual)}")
    for row, ratio in ratios.items():
        words, holds = TARGETS[row]
        print(f"{row:12} {ratio:8.3f}   target: {words}   {'yes' if holds(ratio) else 'NO'}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=32, help="at a time (default: 32)")
    parser.add_argument("--pictures", type=int, default=96, help="in a round (default: 96)")
    parser.add_argument("--rounds", type=int, default=3, help="for each server (default: 3)")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS[:-1],
                        help="default: all but memory")  # fmt: skip
    parser.add_argument("--requests", type=int, default=5000, help="of memory (default: 5000)")
    parser.add_argument("--new", type=int, default=0,
                        help="new pictures in 32 requests of memory (default: 0)")  # fmt: skip
    parser.add_argument("--dtype", default="auto", help="of ours (default: auto)")
    parser.add_argument("--no-peer", action="store_true", help="without transformers' server")
    parser.add_argument("--json", action="store_true", help="all values, for programs")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures (default: 0)")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        await engine_alone(args.engine, args.clients, args.dtype)
        return
    import torch

    facts, load = machine_facts(torch.device("cpu")), OtherLoad()
    ours = ["-m", "minicpmv", "serve", "--dtype", args.dtype, "--device", "cpu"]
    peer = ["-c", PEER, "serve", str(NANO), "--dtype", "float32", "--device", "cpu"]
    compares = not args.no_peer and {"different", "same", "first"} & set(args.only)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving("minicpmv serve", ours, "nano"))]
        if compares:
            servers.append(stack.enter_context(serving("transformers serve", peer, str(NANO))))
        run = Run(args, servers, Pictures(args.seed))
        for server in servers:
            await asked(server, asks_of(run.pictures.new(2), QUESTIONS[0]), 2)
        for row in args.only:
            print(f"{row} ...", file=sys.stderr)
            await getattr(run, row)()
        report(run, facts, load.share(), args.json)


if __name__ == "__main__":
    asyncio.run(main())
