"""`minicpmv batch` beside the engine alone, and three workers beside one.

    python benchmarks/batch.py
    python benchmarks/batch.py --dtype bfloat16

The same drawn pictures, question and longest answer with nano, every way once in turn, in rounds.
Loading is not counted: each way first answers a few rows. Printed are rows per second, and ratios
within a round. The engine is asked in the dtype of the batch, which is float32 for a model like
nano, and in the one that `load` chooses, too.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from minicpmv import load
from minicpmv.batch.journal import Journal
from minicpmv.batch.processes import processes
from minicpmv.batch.rows import PictureFolder
from minicpmv.batch.run import Batch
from minicpmv.batch.sizing import num_processes
from minicpmv.batch.workers import LocalWorker, Worker
from minicpmv.devices import processor_name
from minicpmv.scenes import render
from minicpmv.serve.settings import ServeSettings

QUESTION = "How many shapes are there?"
FIELDS = {"model": "nano", "temperature": 0, "max_tokens": 16}
FEW = 24


async def timed(folder: Path, out: Path, workers: list[Worker]) -> float:
    source = PictureFolder(folder, QUESTION, FIELDS)
    count = source.look().count
    with Journal(out, {"rows": count}, count) as journal:
        begin = time.perf_counter()
        await Batch(source, journal, workers).run()
        journal.finish()
        return count / (time.perf_counter() - begin)


def engine_alone(folder: Path, few: Path, dtype: str) -> float:
    """The engine asked directly, everything at once."""
    options: dict[str, Any] = {"sampling": False, "max_new_tokens": 16, "batch_size": 64}
    with load("nano", dtype=dtype, progress=False) as chat:
        chat.batch([(QUESTION, [file]) for file in sorted(few.glob("*.png"))], **options)
        files = sorted(folder.glob("*.png"))
        begin = time.perf_counter()
        chat.batch([(QUESTION, [file]) for file in files], **options)
        return len(files) / (time.perf_counter() - begin)


async def batch(folder: Path, few: Path, out: Path, dtype: str, number: int) -> float:
    """`minicpmv batch --workers NUMBER`."""
    models: dict[str, Any] = {"model": ("nano",), "dtype": dtype}
    if number == 1:
        async with LocalWorker(ServeSettings(**models)) as worker:
            await timed(few, out, [worker])
            return await timed(folder, out, [worker])
    async with processes(number, models) as workers:
        await timed(few, out, list(workers))
        return await timed(folder, out, list(workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, few, out = Path(name) / "all", Path(name) / "few", Path(name) / "out.jsonl"
        for place, first, count in ((folder, 0, args.pictures), (few, 10**6, FEW)):
            place.mkdir()
            for n in range(count):
                render(first + n, "test", kind="few").image.save(place / f"{n:05}.png")
        print(processor_name())
        number = num_processes({"model": ("nano",)}, 0, args.pictures)
        found: dict[str, list[float]] = defaultdict(list)
        for _ in range(args.rounds):
            engine = engine_alone(folder, few, args.dtype)
            chosen = engine_alone(folder, few, "auto")
            one, many, three = (
                asyncio.run(batch(folder, few, out, args.dtype, n)) for n in (1, number, 3)
            )
            print(
                f"rows per second: engine {engine:.1f} ({args.dtype}), {chosen:.1f} (auto); "
                f"batch {many:.1f} ({number} processes), {one:.1f} (1), {three:.1f} (3)",
                flush=True,
            )
            found["batch / engine"].append(many / engine)
            found["batch / engine in the dtype of load"].append(many / chosen)
            found["one process / engine"].append(one / engine)
            found["three processes / one"].append(three / one)
        for ratio, values in found.items():
            print(f"{ratio}: {statistics.median(values):.2f}")


if __name__ == "__main__":
    main()
