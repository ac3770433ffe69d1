"""Time nano's answers with two checkouts against each other, run by run in turn.

    python benchmarks/ask.py OTHER_CHECKOUT [--runs 5] [--only start fresh] [--avx2] [--dtype auto]

Both run with this Python and its libraries, on the README's question to the bundled model:

    start      `minicpmv ask`, the whole process from start to exit
    again      the question of the warm-up once more, in a loaded model: what a cache may know
    fresh      the same question about a picture that no cache has seen, in a loaded model
    questions  64 such pictures: at once in this checkout, one by one in the other

What counts is the ratio of pairs: absolute times differ between machines and moments. Times are
processor seconds, and seconds of the clock in brackets; the first suffer less from other programs.
`--avx2` holds oneDNN and PyTorch to AVX2, so that a newer processor computes as one without
bfloat16 instructions; compiled kernels, made for this processor, are off then. The first pair of
`start` is not counted: it writes the bytecode of the packages, as an installation does.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

QUESTION = "What colour is the star?"
PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"
NUM_QUESTIONS = 64
WORK = """
import sys, time
from PIL import Image, ImageChops
from minicpmv import load
what, dtype, question, file, number = sys.argv[1:]
chat = load("nano", device="cpu", dtype=dtype)
scene = Image.open(file).convert("RGB")
for _ in range(2):
    chat.ask(question, [scene])
moved = [ImageChops.offset(scene, 3 * (i + 1), 0) for i in range(int(number))]
cpu, clock = time.process_time(), time.perf_counter()
if what == "again":
    answers = [chat.ask(question, [scene])]
elif what == "fresh":
    answers = [chat.ask(question, [moved[0]])]
elif what == "at-once":
    answers = chat.batch([(question, [image]) for image in moved], batch_size=len(moved))
else:
    answers = [chat.ask(question, [image]) for image in moved]
right = sum(answer.text == "purple" for answer in answers)
print(time.process_time() - cpu, time.perf_counter() - clock, right)
"""
ROWS = ("start", "again", "fresh", "questions")


def timed(
    command: list[str], checkout: Path, environment: dict[str, str]
) -> tuple[float, float, str]:
    """Processor seconds and seconds of a command with a checkout's package, and its stdout."""
    variables = {**os.environ, **environment, "PYTHONPATH": str(checkout)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(
        command, env=variables, cwd=checkout, capture_output=True, text=True, check=True
    )
    after, seconds = os.times(), time.perf_counter() - begin
    used = after.children_user - before.children_user
    return used + after.children_system - before.children_system, seconds, done.stdout.strip()


def measure(
    row: str, is_this: bool, checkout: Path, dtype: str, environment: dict[str, str]
) -> tuple[float, float]:
    """Processor seconds, and seconds of the clock."""
    if row == "start":
        ask = [sys.executable, "-m", "minicpmv", "ask", "--device", "cpu", "--dtype", dtype]
        cpu, seconds, text = timed([*ask, QUESTION, str(PICTURE)], checkout, environment)
        if text != "purple":
            raise SystemExit(f"{checkout} answers {text!r}; expected 'purple'")
        return cpu, seconds
    what = {"questions": "at-once" if is_this else "one-by-one"}.get(row, row)
    words = [what, dtype, QUESTION, str(PICTURE), str(NUM_QUESTIONS)]
    _, _, text = timed([sys.executable, "-c", WORK, *words], checkout, environment)
    cpu, seconds, right = map(float, text.split())
    least = 0.5 * NUM_QUESTIONS if row == "questions" else 1
    if right < least:  # moved pictures cut the star in two now and then
        raise SystemExit(f"{checkout}, {row}: {right:.0f} right answers, expected {least:.0f}")
    return cpu, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs (default: 5)")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="default: all")
    parser.add_argument("--avx2", action="store_true", help="compute as an AVX2 processor")
    parser.add_argument("--dtype", default="auto", help="of both (default: auto)")
    args = parser.parse_args()
    environment = {}
    if args.avx2:
        environment = {
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "MINICPMV_KERNELS": "off",
        }
    checkouts = {"this": Path(__file__).parents[1], "other": args.other.resolve()}
    from minicpmv.devices import processor_name

    print(f"{processor_name()}{', held to AVX2' if args.avx2 else ''}; {args.runs} pairs")
    for row in args.only:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
        uncounted = 1 if row == "start" else 0
        for number in range(uncounted + args.runs):
            for name, checkout in checkouts.items():
                times = measure(row, name == "this", checkout, args.dtype, environment)
                if number >= uncounted:
                    found[name].append(times)
        parts = []
        for name, times in found.items():
            cpu, seconds = (statistics.median(column) for column in zip(*times, strict=True))
            parts.append(f"{name} {cpu:.2f} s ({seconds:.2f})")
        for index, kind in enumerate(("CPU", "clock")):
            both = zip(found["this"], found["other"], strict=True)
            pairs = [theirs[index] / ours[index] for ours, theirs in both]
            parts.append(
                f"{kind} other / this {statistics.median(pairs):.2f} "
                f"({min(pairs):.2f} to {max(pairs):.2f})"
            )
        print(f"{row:10}{', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
