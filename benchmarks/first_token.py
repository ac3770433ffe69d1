"""Time from nothing to the first token of a GGUF file, here and in llama.cpp, and memory.

    LLAMA_CPP_DIR=llama.cpp/build python benchmarks/export.py --load MODEL.gguf

Both start as a new process, map the same file, which is in the page cache, use as many threads,
and answer a prompt of as many tokens with one token. llama.cpp is its server, asked by token ids,
without a warm-up run. The time is that from starting the process to the answer; that of the prompt
alone is what each says. Memory is that of the process when the answer is there: private pages and
those of the file, each once (Pss).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_GOAL = {"seconds": 1.5, "bytes": 1.1}


def memory(process: int | str = "self") -> dict[str, int]:
    """Bytes of a process: `all`, and of these `anonymous`, which no file holds."""
    found = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        if name in ("Pss", "Pss_Anon"):
            found["all" if name == "Pss" else "anonymous"] = int(rest.split()[0]) * 1024
    return found


def answer_here(path: str, num_tokens: int, threads: int) -> None:
    """In a process of its own: load, answer, print what was measured."""
    begin = time.perf_counter()
    import torch

    from minicpmv.bench.prompts import prompt_of
    from minicpmv.loader import load

    torch.set_num_threads(threads)
    imported = time.perf_counter()
    chat = load(path, device="cpu", progress=False)
    loaded = time.perf_counter()
    prompt = prompt_of(chat.processor, num_tokens, 0)
    answer = chat.ask(prompt, max_new_tokens=1, sampling=False, num_beams=1)
    found = {
        "import_s": imported - begin,
        "load_s": loaded - imported,
        "prompt_s": answer.prompt_seconds,
        "tokens": answer.num_input_tokens,
        "dtype": str(chat.precision),
        "memory": memory(),
    }
    print(json.dumps(found), flush=True)


def here(path: Path, num_tokens: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__)), str(path), str(num_tokens), str(threads)]
    begin = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        total = time.perf_counter() - begin
    if not line or process.returncode:
        raise SystemExit(f"{path} was not answered (exit code {process.returncode}).")
    found: dict[str, Any] = json.loads(line)
    return found | {"total_s": total}


def llama_cpp(path: Path, num_tokens: int, threads: int) -> dict[str, Any]:
    from minicpmv.bench.llama_cpp import LlamaCppSubject

    begin = time.perf_counter()
    subject = LlamaCppSubject(path, None, 1, threads, more=["--no-warmup"])
    try:
        timings = subject.first_token(num_tokens)
        total = time.perf_counter() - begin
        return {
            "prompt_s": timings["prompt_ms"] / 1000,
            "tokens": timings["prompt_n"],
            "total_s": total,
            "memory": memory(subject.process_id),
        }
    finally:
        subject.close()


def table(path: Path, lengths: Sequence[int], threads: int, times: int) -> None:
    """Print a row for each length of a prompt: the best of a few runs that take turns."""
    size = path.stat().st_size
    print(f"{path.name}, {size / 1e9:.2f} GB, {threads} threads\n")
    print("| prompt | | to the first token | prompt alone | memory | of the file |")
    print("|---|---|---|---|---|---|")
    for length in lengths:
        ours: dict[str, Any] = {}
        theirs: dict[str, Any] = {}
        for _ in range(times):
            ours = _best(ours, here(path, length, threads))
            theirs = _best(theirs, llama_cpp(path, ours["tokens"], threads))
        for name, found in (("minicpmv", ours), ("llama.cpp", theirs)):
            held = found["memory"]["all"]
            print(
                f"| {found['tokens']} | {name} | {found['total_s']:.1f} s "
                f"| {found['prompt_s']:.2f} s | {held / 1e9:.2f} GB | {held / size:.2f} |",
                flush=True,
            )
        time_ratio = ours["total_s"] / theirs["total_s"]
        prompt_ratio = ours["prompt_s"] / theirs["prompt_s"]
        print(
            f"\nFirst token: {time_ratio:.2f} of llama.cpp's time (goal {_GOAL['seconds']}), of "
            f"which {ours['import_s']:.1f} s are imports and {ours['load_s']:.1f} s loading; "
            f"prompt alone {prompt_ratio:.2f}. Memory {ours['memory']['all'] / size:.2f} of the "
            f"file (goal {_GOAL['bytes']}). {ours['dtype']}.\n",
            flush=True,
        )


def _best(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return second if not first or second["total_s"] < first["total_s"] else first


if __name__ == "__main__":
    answer_here(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
