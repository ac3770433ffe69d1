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
    return devices or with_rows_enough(most_processes(models), rows)


def most_processes(models: Mapping[str, Any]) -> int:
    """How many processes without a GPU can be worth while, however many rows there are.

    Raises:
        OSError, ValueError: the files of the model cannot be read.
    """
    settings = ServeSettings(**models)
    if len(settings.model) != 1 or not is_small(settings.model[0], settings.device):
        return 1
    free = available_memory()
    fitting = num_cores() if free is None else free // _PROCESS_BYTES
    return max(1, min(num_cores(), fitting))


def with_rows_enough(most: int, rows: int) -> int:
    """As many of `most` processes as `rows` are worth."""
    return max(1, min(most, rows // ROWS_PER_PROCESS))
