"""What a model takes in memory: counted from its files before it is loaded, and from its tensors
afterwards; and how much PyTorch and the C library keep beside it.
"""

import copy
import ctypes
import os
import platform
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from ..chat import Chat
from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import skeleton
from ..devices import hardware_of, parse_device
from ..loader import find_checkpoint, model_class, precision_of, read_config
from ..precision import working_bytes
from ..quantization import UNPACKED, weight_bytes
from ..releases import model_type_of

# oneDNN, and PyTorch once more, keep up to 1,024 compiled products of bfloat16, one for each number
# of rows and each weight, of half a megabyte together. A server sees every number of rows: with
# nano, memory had grown by 200 MB after 1,000 requests, and went on. To make one anew takes 0.2 ms.
_PRIMITIVES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}

# glibc gives freed blocks above some hundred kilobytes back to the system, and gets the next ones
# page by page: for layers that take milliseconds, a fifth of the time.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_KEPT = 32 << 20  # what glibc takes at most
_KEPT = 256 << 20

_SMALL = 400_000_000  # bytes in float32


def limit_primitives() -> None:
    """Let fewer compiled products be kept, before the first is computed in this process; what the
    environment says already stays.
    """
    for name, number in _PRIMITIVES.items():
        os.environ.setdefault(name, number)


def keep_freed_memory() -> bool:
    """Keep up to 256 MiB of freed blocks of at most 32 MiB for what comes next in this process.

    Returns:
        Whether the C library can be told so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, _KEPT))


def bytes_of_model(chat: Chat) -> int:
    """Weights, and what an answer takes beside them."""
    tensors = [*chat.model.parameters(), *chat.model.buffers()]
    return sum(tensor.nbytes for tensor in tensors) + working_bytes(chat.model.config)


def bytes_of_files(checkpoint: Checkpoint) -> int | None:
    """Of its weights on this disk; None where they are not all there."""
    files = checkpoint.kept_weight_files()
    return sum(file.stat().st_size for file in files) if files else None


def bytes_of_place(place: str, device: str, dtype: str, quantize: str | None) -> int:
    """The same, before the model is loaded.

    Args:
        place, device, dtype, quantize: as `minicpmv.load` takes them.

    Raises:
        OSError, ValueError: its files cannot be read.
    """
    with find_checkpoint(place) as checkpoint:
        fields = read_config(checkpoint)
        empty = _empty_model(fields)
        files = checkpoint.kept_weight_files()
        written = fields.get("quantization_config") or {}
        if written and files and written.get("quant_method") not in UNPACKED:
            return sum(file.stat().st_size for file in files) + working_bytes(empty.config)
        target = parse_device(device)
        if dtype == "auto" and not quantize and not written and _is_small(empty, target):
            dtype = "float32"  # at most, see `invariance`
        precision = precision_of(checkpoint, fields, target, dtype, quantize=quantize)
    weights = weight_bytes(empty, quantize, width=precision.dtype.itemsize)
    return weights + working_bytes(empty.config)


def is_small(place: str, device: str) -> bool:
    """Whether it is a model on a CPU that computes little for each token.

    Raises:
        OSError, ValueError: its files cannot be read.
    """
    with find_checkpoint(place) as checkpoint:
        return _is_small(_empty_model(read_config(checkpoint)), parse_device(device))


def _is_small(empty: Any, target: torch.device) -> bool:
    return target.type == "cpu" and weight_bytes(empty, None, width=4) < _SMALL


def _empty_model(fields: dict[str, Any]) -> Any:
    """The model of a `config.json`, without memory for its weights."""
    model_type = model_type_of(fields)
    config = CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(fields))
    return skeleton(model_class(fields), config)


def free_bytes(device: str) -> int | None:
    """Memory of a device that models may take; None where it does not say."""
    target = parse_device(device)
    if target.type == "cuda":
        free, _ = torch.cuda.mem_get_info(target)
        return int(free)
    return hardware_of(target).free_bytes
