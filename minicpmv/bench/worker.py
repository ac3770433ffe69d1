"""Another checkout of the package as a subject, in a process of its own.

This file is run by path with the checkout first on Python's path; `minicpmv.bench` is then this
folder, whatever the checkout has, and everything else of `minicpmv` is the checkout's. Requests and
results are lines of JSON on stdin and stdout.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class WorkerSubject:
    """A model loaded by another checkout.

    Args:
        checkout: its folder, which has `minicpmv/`.
        model, options: of its `load`.

    Raises:
        OSError: it is no checkout, or its process ended.
    """

    def __init__(
        self, checkout: Path, model: str, options: dict[str, Any], streams: int, threads: int
    ):
        checkout = checkout.resolve()
        if not (checkout / "minicpmv" / "__init__.py").is_file():
            raise OSError(f"{str(checkout)!r} is no checkout of this package: no minicpmv/ in it.")
        self.name = commit_of(checkout)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        self.facts = self._ask(
            {"model": model, "options": options, "streams": streams, "threads": threads}
        )

    def measure(self, run: str, wanted: Sequence[str], seed: int) -> dict[str, Any]:
        from .cases import Sample

        found = self._ask({"run": run, "wanted": list(wanted), "seed": seed})
        return {name: Sample(**sample) for name, sample in found.items()}

    def peak_bytes(self) -> int | None:
        peak: int | None = self._ask({"peak": True})["peak"]
        return peak

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):  # it ends where its input does
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass  # it has ended; said below
        if not line:
            code = self._process.wait()
            raise OSError(f"The process of {self.name} ended with code {code}.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise OSError(f"{self.name}: {answer['error']}")
        return answer


def commit_of(checkout: Path) -> str:
    """The commit of a checkout, with a mark for changes; its folder's name where git knows none."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return checkout.name
    return done.stdout.strip() or checkout.name


def serve() -> None:
    """Load what the first line asks for, then measure line by line until stdin ends."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no result
    subject: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if subject is None:
                subject = _load(request)
                answer = subject.facts
            elif "peak" in request:
                answer = {"peak": subject.peak_bytes()}
            else:
                found = subject.measure(request["run"], request["wanted"], request["seed"])
                answer = {name: vars(sample) for name, sample in found.items()}
        except Exception as error:  # told to the process that asked
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(answer), file=results, flush=True)


def _load(request: dict[str, Any]) -> Any:
    import torch

    subjects = importlib.import_module("minicpmv.bench.subjects")
    loader = importlib.import_module("minicpmv.loader")
    torch.set_num_threads(request["threads"])
    begin = time.perf_counter()
    chat = loader.load(request["model"], progress=False, **request["options"])
    seconds = time.perf_counter() - begin
    subject = subjects.subject_of(chat, request["streams"], "")
    dtype = str(chat.model.dtype).removeprefix("torch.")
    subject.facts = {"load_seconds": seconds, "dtype": dtype, "asked": type(subject).__name__}
    return subject


def _use_this_bench() -> None:
    """Make this folder `minicpmv.bench`, beside the other modules of the checkout."""
    package = importlib.import_module("minicpmv")
    spec = importlib.util.spec_from_file_location(
        "minicpmv.bench", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["minicpmv.bench"] = module
    spec.loader.exec_module(module)
    package.bench = module  # type: ignore[attr-defined]


if __name__ == "__main__":
    _use_this_bench()
    importlib.import_module("minicpmv.bench.worker").serve()
