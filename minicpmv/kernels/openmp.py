"""How many threads the calling thread computes with, without a say in those of others.

`torch.set_num_threads` also sets what threads that begin later compute with. The number itself
belongs to each thread, in the OpenMP runtime that torch has loaded.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch


@cache
def thread_setter() -> Callable[[int], None] | None:
    """What sets the number of the calling thread; None where torch does not follow it."""
    if sys.platform != "linux":
        return None
    setter: Callable[[int], None] | None = getattr(ctypes.CDLL(None), "omp_set_num_threads", None)
    if setter is None:
        return None
    own = torch.get_num_threads()
    setter(own + 1)
    follows = torch.get_num_threads() == own + 1
    setter(own)
    return setter if follows else None


@contextmanager
def computing_with(num_threads: int) -> Iterator[None]:
    """A block that the calling thread computes with so many threads, where it can say so."""
    setter, own = thread_setter(), torch.get_num_threads()
    if setter is None:
        yield
        return
    setter(num_threads)
    try:
        yield
    finally:
        setter(own)
