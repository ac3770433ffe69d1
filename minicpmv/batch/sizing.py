"""How many processes answer a batch, with how many threads each, and how many rows they hold."""

from collections.abc import Mapping
from typing import Any

from ..devices import available_memory, num_cores
from ..serve.memory import is_small
from ..serve.settings import ServeSettings

ROWS_PER_PROCESS = 200  # for fewer, one more process takes longer to start than it saves
_PROCESS_BYTES = 2 << 30  # of memory that a process with a small model may take


def rows_at_a_time(settings: ServeSettings, threads: int | None = None) -> int:
    """That a worker is given: those that it answers, and some that are being read.

    Args:
        threads: of the worker; by default as many as there are cores.
    """
    return settings.max_num_seqs + max(2, threads or num_cores())


def threads_of(number: int) -> int:
    """Of each of so many processes that share the cores."""
    return max(1, num_cores() // number)


def num_processes(models: Mapping[str, Any], devices: int, rows: int) -> int:
    """Where nobody says how many.

    A small model leaves most of the time of several cores to what cannot be divided among them:
    one core for each process is faster, as long as there are rows enough.

    Args:
        models: of `ServeSettings`, as keywords.
        devices: GPUs; one process for each.
        rows: that are left to be answered.

    Raises:
        OSError, ValueError: the files of the model cannot be read.
    """
    settings = ServeSettings(**models)
    if devices:
        return devices
    if len(settings.model) != 1 or not is_small(settings.model[0], settings.device):
        return 1
    free = available_memory()
    fitting = num_cores() if free is None else free // _PROCESS_BYTES
    return max(1, min(num_cores(), fitting, rows // ROWS_PER_PROCESS))
