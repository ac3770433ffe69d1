"""llama.cpp through llama-cpp-python, where there is no `llama-server`: text, one at a time."""

import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .cases import CONTEXT, NEW_TOKENS, Sample
from .llama_cpp import token_ids


def is_installed() -> bool:
    """Whether the package can be imported."""
    return find_spec("llama_cpp") is not None


class LlamaPythonSubject:
    """A model in this process, loaded by llama-cpp-python.

    Raises:
        OSError: the file cannot be loaded.
    """

    def __init__(self, model: Path, threads: int):
        import llama_cpp

        begin = time.perf_counter()
        try:
            self._llama: Any = llama_cpp.Llama(
                str(model),
                n_ctx=2 * CONTEXT,
                n_batch=CONTEXT,
                n_threads=threads,
                n_threads_batch=threads,
                verbose=False,
            )
        except (ValueError, AssertionError, RuntimeError) as error:
            raise OSError(f"llama-cpp-python cannot load {str(model)!r}: {error}") from error
        self.name = "llama.cpp"
        self.facts = {
            "load_seconds": time.perf_counter() - begin,
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "file": model.name,
            "file_bytes": os.path.getsize(model),
            "threads": threads,
        }

    def can(self, run: str) -> bool:
        """Text only, and one answer at a time."""
        return run == "text"

    def measure(self, run: str, wanted: Sequence[str], seed: int) -> dict[str, Sample]:
        ids = token_ids(self._llama.n_vocab(), CONTEXT, seed)
        self._llama.reset()
        moments = [(time.perf_counter(), time.process_time())]
        self._llama.eval(ids)
        for _ in range(NEW_TOKENS * ("decode" in wanted)):
            token = self._llama.sample(temp=0.0)
            if len(moments) == 1:
                moments.append((time.perf_counter(), time.process_time()))
            self._llama.eval([token])
        moments.append((time.perf_counter(), time.process_time()))
        (begin, begin_cpu), (first, first_cpu), (end, end_cpu) = moments[0], moments[1], moments[-1]
        found = {
            "prefill": Sample(first - begin, first_cpu - begin_cpu, CONTEXT),
            "decode": Sample(end - first, end_cpu - first_cpu, NEW_TOKENS),
        }
        return {name: found[name] for name in wanted}

    def peak_bytes(self) -> int | None:
        """None: it shares this process with the other subject."""

    def close(self) -> None:
        self._llama.close()
