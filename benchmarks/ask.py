"""Time `minicpmv ask` of two checkouts against each other, run by run in turn.

    python benchmarks/ask.py OTHER_CHECKOUT [--runs 5] [--avx2] [--dtype auto]

Both run with this Python and its libraries, on the README's question to the bundled model. What
counts is the ratio of pairs: absolute times differ between machines and moments. `--avx2` holds
oneDNN and PyTorch to AVX2, so that a newer processor computes as one without bfloat16
instructions. "cpu" is processor time of a whole process, start and end included; "answer" is that
of the second answer in a loaded model, which leaves out starting and loading.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

QUESTION = "What colour is the star?"
PICTURE = Path(__file__).parents[1] / "examples" / "scene.png"
ANSWER = """
import sys, time
from minicpmv import load
chat = load("nano", device="cpu", dtype=sys.argv[1])
for _ in range(2):
    start = time.process_time()
    text = chat.ask(sys.argv[2], [sys.argv[3]]).text
    seconds = time.process_time() - start
print(seconds, text)
"""


def timed(command: list[str], checkout: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Processor seconds of a command that runs with a checkout's package, and its stdout."""
    variables = {**os.environ, **environment, "PYTHONPATH": str(checkout)}
    before = os.times()
    done = subprocess.run(
        command, env=variables, cwd=checkout, capture_output=True, text=True, check=True
    )
    after = os.times()
    used = after.children_user - before.children_user
    return used + after.children_system - before.children_system, done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs (default: 5)")
    parser.add_argument("--avx2", action="store_true", help="compute as an AVX2 processor")
    parser.add_argument("--dtype", default="auto", help="of both (default: auto)")
    args = parser.parse_args()
    environment = {}
    if args.avx2:
        environment = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    checkouts = {"this": Path(__file__).parents[1], "other": args.other.resolve()}
    from minicpmv.devices import processor_name

    print(f"{processor_name()}{', held to AVX2' if args.avx2 else ''}; {args.runs} pairs")
    ask = [sys.executable, "-m", "minicpmv", "ask", "--device", "cpu", "--dtype", args.dtype]
    answer = [sys.executable, "-c", ANSWER, args.dtype, QUESTION, str(PICTURE)]
    for what, command in (("cpu", [*ask, QUESTION, str(PICTURE)]), ("answer", answer)):
        times: dict[str, list[float]] = {name: [] for name in checkouts}
        for _ in range(args.runs):
            for name, checkout in checkouts.items():
                seconds, text = timed(command, checkout, environment)
                if what == "answer":
                    first, _, text = text.partition(" ")
                    seconds = float(first)
                times[name].append(seconds)
                if text != "purple":
                    raise SystemExit(f"{name} answers {text!r}; expected 'purple'")
        pairs = [b / a for a, b in zip(times["this"], times["other"], strict=True)]
        medians = {name: statistics.median(found) for name, found in times.items()}
        print(
            f"{what:7} this {medians['this']:.2f} s, other {medians['other']:.2f} s, "
            f"other / this {statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        )


if __name__ == "__main__":
    main()
