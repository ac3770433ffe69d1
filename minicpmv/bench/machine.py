"""What this machine is, what it can read per second, and how much of it others use."""

import datetime
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..devices import processor_name
from ..kernels import library, why_not
from ..kernels.processor import instruction_sets
from .worker import commit_of

# Sets that decide how fast products are, in the order of their age.
_TELLING = (
    *("avx", "fma", "avx2", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
_READ_BYTES = 1 << 29  # beyond every cache


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Processor, memory, versions and time."""
    import psutil
    import transformers

    sets = instruction_sets()
    found = library()
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "minicpmv": _version(),
        "commit": commit_of(Path(__file__).parents[2]),
        "processor": processor_name(),
        "instruction_sets": [name for name in _TELLING if name in sets],
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernels": "torch" if found is None else f"compiled for {' '.join(found.target)}",
        "no_kernels_because": why_not(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _version() -> str:
    try:
        return version("minicpmv")
    except PackageNotFoundError:
        return "not installed"  # run from its source folder


def bandwidth(device: torch.device, repeat: int = 5) -> float:
    """Bytes per second: read from memory by all threads, or copied on a GPU (read and written)."""
    source = torch.ones(_READ_BYTES // 4, device=device)
    is_cpu = device.type == "cpu"
    target = None if is_cpu else torch.empty_like(source)
    best = float("inf")
    for _ in range(repeat + 1):
        _wait(device)
        begin = time.perf_counter()
        if target is None:
            source.sum()
        else:
            target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - begin)
    return _READ_BYTES * (1 if is_cpu else 2) / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class OtherLoad:
    """The share of all processors' time that other programs take, from its making on."""

    def __init__(self) -> None:
        self._begin = self._all(), self._own()

    def share(self) -> float:
        """From 0 to 1."""
        (busy, total), own = self._all(), self._own()
        (busy_then, total_then), own_then = self._begin
        others = busy - busy_then - (own - own_then)
        return min(1.0, max(0.0, others / max(total - total_then, 1e-9)))

    def _all(self) -> tuple[float, float]:
        import psutil

        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        counted = sum(getattr(times, name, 0.0) for name in ("guest", "guest_nice"))
        total = sum(times) - counted  # those are in user and nice already
        return total - idle, total

    def _own(self) -> float:
        """This process, and those it started: while they run, and after."""
        import psutil

        used = sum(os.times()[:4])
        for child in psutil.Process().children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.Error:
                continue  # it has just ended, and is counted with this process
            used += times.user + times.system
        return used
