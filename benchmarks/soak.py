"""Generate 200,000 tokens from several threads, and watch the memory.

    python benchmarks/soak.py [--tokens 200000] [--threads 8] [--model nano] [--growth-mb 32]

Threads ask, stream, close streams early and talk, with and without pictures, greedily and at
random, in float32. Memory is the resident set of the process; it may grow while caches fill (the
warm-up, the first fifth of the tokens), and after that by `--growth-mb` at most: exit code 1 if
it grew by more. Caches are small, so that they fill early. Pictures, questions and options follow
from `--seed`.
"""

import argparse
import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"
WARM_UP = 0.2  # of the tokens
QUESTIONS = ["What colour is the star?", "How many shapes are there?", "Describe the picture."]


class Meter:
    """Tokens so far, and the memory each time that another part of them is done."""

    def __init__(self, chat: Any, num_tokens: int, num_readings: int):
        self.chat = chat
        self.num_tokens = num_tokens
        self.step = max(num_tokens // num_readings, 1)
        self.done = 0
        self.readings: list[tuple[int, int]] = []  # tokens, bytes
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self._begin = time.perf_counter()

    def add(self, num_tokens: int) -> None:
        with self._lock:
            before, self.done = self.done, self.done + num_tokens
            if before // self.step < self.done // self.step:
                memory = self._process.memory_info().rss
                self.readings.append((self.done, memory))
                rate = self.done / (time.perf_counter() - self._begin)
                found = self.chat.engine.stats()
                cached = found["prefixes"]["store_bytes"] + found["features"]["bytes"]
                print(
                    f"{self.done:>9,} tokens  {memory / 1e6:8.1f} MB, of these "
                    f"{cached / 1e6:6.1f} MB caches  {rate:7.1f} tokens/s"
                )
                sys.stdout.flush()

    def growth(self) -> int:
        """Bytes by which the memory of the last fifth is larger than that after the warm-up.

        The least of some readings each time: what is taken for a moment is no growth.
        """
        start = WARM_UP * self.num_tokens
        after = [memory for tokens, memory in self.readings if tokens >= start]
        size = max(len(after) // 4, 1)
        return min(after[-size:]) - min(after[:size])


def work(chat: Any, meter: Meter, seed: int, numbers: Iterator[int]) -> None:
    """Ask until all tokens are done."""
    rng = random.Random(seed)
    scene = Image.open(PICTURE).convert("RGB")
    while meter.done < meter.num_tokens:
        # Each question is a new one: nothing may be kept for all that were ever asked.
        question = f"{next(numbers)}. {rng.choice(QUESTIONS)}"
        size = rng.randrange(60, 448), rng.randrange(60, 448)  # width, height
        images = [scene.resize(size)] if rng.random() < 0.3 else []
        length = rng.choice([8, 32, 128, 300])
        options: dict[str, Any] = {"max_new_tokens": length, "min_new_tokens": length // 2}
        options |= {"sampling": True, "seed": rng.randrange(1000), "temperature": 1.5}
        kind = rng.randrange(4)
        if kind == 0:
            meter.add(chat.ask(question, images, **options).num_output_tokens)
        elif kind == 1:
            with chat.stream(question, images, **options) as stream:
                read = sum(1 for _ in itertools.islice(stream, rng.randrange(20)))
            meter.add(read)
        else:
            conversation = chat.conversation()
            for turn in range(kind):
                stream = conversation.say(question, images if turn == 0 else [], **options)
                for _ in stream:
                    pass
                meter.add(stream.answer.num_output_tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="nano", help="a name or a folder (default: nano)")
    parser.add_argument("--tokens", type=int, default=200_000, help="in all (default: 200000)")
    parser.add_argument("--threads", type=int, default=8, help="that ask (default: 8)")
    parser.add_argument("--readings", type=int, default=40, help="of the memory (default: 40)")
    parser.add_argument("--growth-mb", type=float, default=32, help="allowed (default: 32)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from minicpmv import Chat, load
    from minicpmv.engine.limits import EngineLimits

    loaded = load(args.model, device="cpu", dtype="float32")
    limits = EngineLimits(idle_bytes=32 << 20, feature_bytes=8 << 20)
    chat = Chat(loaded.model, loaded.processor, limits=limits)
    meter = Meter(chat, args.tokens, args.readings)
    numbers = itertools.count()
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            work(chat, meter, seed, numbers)
        except BaseException as error:  # ends the run, below
            errors.append(error)
            meter.num_tokens = 0

    seeds = range(args.seed, args.seed + args.threads)
    threads = [threading.Thread(target=run, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    growth = meter.growth() / 1e6
    print(f"memory after the warm-up: {growth:+.1f} MB; allowed: {args.growth_mb:+.1f} MB")
    return int(growth > args.growth_mb)


if __name__ == "__main__":
    sys.exit(main())
