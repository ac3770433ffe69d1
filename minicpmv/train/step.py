"""What makes a training step of transformers' `Trainer` faster here, without changing what it
computes: the memory of the process, products in float32, and the inputs of adapters."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..kernels.training import fast_training_products

# mallopt(3). glibc maps each block above some hundred kilobytes anew, page by page, and gives it
# back: a tenth to a half of the time of element-wise layers. What a step has freed is kept for the
# next, but for blocks above 32 MB, the tiles of logits among them, which would lie between others.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 << 20  # what glibc takes at most
_KEPT = 1 << 30

# oneDNN and PyTorch keep up to 1,024 compiled products each, and every packed row has another
# number of tokens: memory grew by 50 MB a step. To make one anew takes 0.2 ms. What PyTorch drops
# oneDNN still has, so PyTorch may keep few: 32 take 90 MB less than 128, in the same time. With 64
# in oneDNN rows of many short conversations took a third longer: each length has its own products.
_PRIMITIVES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "32"}


def prepare_process() -> bool:
    """Settle how this process keeps memory. For training on a CPU, before the model is loaded;
    limits that the environment says stay.

    Returns:
        Whether the C library can be told to keep what a step has freed.
    """
    for name, number in _PRIMITIVES.items():
        os.environ.setdefault(name, number)
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, _KEPT))


@contextmanager
def fast_step(model: torch.nn.Module, *, autocast: bool) -> Iterator[None]:
    """Around one training step, forward and backward.

    Args:
        model: with PEFT's adapters or without.
        autocast: whether the step's forward pass runs under autocast. PEFT turns the inputs of its
            adapters into float32, and autocast turns them back at once: inside, they stay.
    """
    adapters = [m for m in model.modules() if getattr(m, "cast_input_dtype_enabled", False)]
    wide: list[Any] = adapters if autocast else []
    for module in wide:
        module.cast_input_dtype_enabled = False
    try:
        with fast_training_products():
            yield
    finally:
        for module in wide:
            module.cast_input_dtype_enabled = True


__all__ = ["fast_step", "prepare_process"]
