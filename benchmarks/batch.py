"""`minicpmv batch` beside the engine alone, and three workers beside one.

    python benchmarks/batch.py

The same drawn pictures and question with nano, every way once in turn, in rounds. Loading is not
counted: each way first answers a few rows. Printed are rows per second, and ratios within a round.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from minicpmv import load
from minicpmv.batch.journal import Journal
from minicpmv.batch.processes import local_servers
from minicpmv.batch.rows import PictureFolder
from minicpmv.batch.run import Batch
from minicpmv.batch.workers import LocalWorker, Worker
from minicpmv.devices import processor_name
from minicpmv.scenes import render
from minicpmv.serve.settings import ServeSettings

QUESTION = "How many shapes are there?"
FIELDS = {"model": "nano", "temperature": 0, "max_tokens": 16}


async def timed(folder: Path, out: Path, workers: list[Worker]) -> float:
    source = PictureFolder(folder, QUESTION, FIELDS)
    count = source.look().count
    with Journal(out, {"rows": count}, count) as journal:
        begin = time.perf_counter()
        await Batch(source, journal, workers).run()
        journal.finish()
        return count / (time.perf_counter() - begin)


def engine_alone(folder: Path) -> float:
    """The engine asked directly, everything at once."""
    files = sorted(folder.glob("*.png"))
    with load("nano", progress=False) as chat:
        options = {"sampling": False, "max_new_tokens": 16}
        chat.batch([(QUESTION, [files[0]])] * 2, **options)
        chat.engine.forget()
        begin = time.perf_counter()
        chat.batch([(QUESTION, [file]) for file in files], batch_size=64, **options)
        return len(files) / (time.perf_counter() - begin)


async def in_process(folder: Path, few: Path, out: Path) -> float:
    async with LocalWorker(ServeSettings()) as worker:
        await timed(few, out, [worker])
        return await timed(folder, out, [worker])


async def in_processes(folder: Path, few: Path, out: Path, number: int) -> float:
    async with local_servers(number, ["nano"], 32) as workers:
        await timed(few, out, list(workers))
        return await timed(folder, out, list(workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, few, out = Path(name) / "all", Path(name) / "few", Path(name) / "out.jsonl"
        for place, first, count in ((folder, 0, args.pictures), (few, 10**6, 8)):
            place.mkdir()
            for n in range(count):
                render(first + n, "test", kind="few").image.save(place / f"{n:05}.png")
        print(processor_name())
        ratios: list[float] = []
        of_three: list[float] = []
        for _ in range(args.rounds):
            alone = engine_alone(folder)
            one = asyncio.run(in_process(folder, few, out))
            three = asyncio.run(in_processes(folder, few, out, 3))
            ratios.append(one / alone)
            of_three.append(three / one)
            print(
                f"rows per second: engine {alone:.1f}, batch {one:.1f} ({one / alone:.2f}), "
                f"three workers {three:.1f} ({three / one:.2f} of one)",
                flush=True,
            )
        print(f"medians: batch {statistics.median(ratios):.2f} of the engine's, three workers "
              f"{statistics.median(of_three):.2f} of one")  # fmt: skip


if __name__ == "__main__":
    main()
