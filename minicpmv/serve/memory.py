"""What a model takes in memory: counted from its files before it is loaded, and from its tensors
afterwards; and a limit to what PyTorch remembers beside it.
"""

import copy
import os

import torch
from transformers import CONFIG_MAPPING

from ..chat import Chat
from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import skeleton
from ..devices import hardware_of, parse_device
from ..loader import MODEL_CLASSES, precision_of, read_config
from ..precision import working_bytes
from ..quantization import weight_bytes
from ..releases import model_type_of

# oneDNN, and PyTorch once more, keep up to 1,024 compiled products of bfloat16, one for each number
# of rows and each weight, of half a megabyte together. A server sees every number of rows: with
# nano, memory had grown by 200 MB after 1,000 requests, and went on. To make one anew takes 0.2 ms.
_PRIMITIVES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}

_SMALL = 400_000_000  # bytes in float32


def limit_primitives() -> None:
    """Let fewer compiled products be kept, before the first is computed in this process; what the
    environment says already stays.
    """
    for name, number in _PRIMITIVES.items():
        os.environ.setdefault(name, number)


def bytes_of_model(chat: Chat) -> int:
    """Weights, and what an answer takes beside them."""
    tensors = [*chat.model.parameters(), *chat.model.buffers()]
    return sum(tensor.nbytes for tensor in tensors) + working_bytes(chat.model.config)


def bytes_of_place(place: str, device: str, dtype: str, quantize: str | None) -> int:
    """The same, before the model is loaded.

    Args:
        place, device, dtype, quantize: as `minicpmv.load` takes them.

    Raises:
        OSError, ValueError: its files cannot be read.
    """
    checkpoint = Checkpoint.find(place)
    fields = read_config(checkpoint)
    config = CONFIG_MAPPING[model_type_of(fields)].from_dict(copy.deepcopy(fields))
    files = checkpoint.kept_weight_files()
    if fields.get("quantization_config") and files:
        return sum(file.stat().st_size for file in files) + working_bytes(config)
    target = parse_device(device)
    dtype = dtype_of_place(place, device, dtype, quantize)
    precision = precision_of(checkpoint, fields, target, dtype, quantize=quantize)
    empty = skeleton(MODEL_CLASSES[model_type_of(fields)], config)
    weights = weight_bytes(empty, quantize, width=precision.dtype.itemsize)
    return weights + working_bytes(config)


def dtype_of_place(place: str, device: str, dtype: str, quantize: str | None) -> str:
    """The dtype to load a model in: where nothing is asked for, float32 for a small one on a CPU.

    In bfloat16 a likely token may differ with what was computed before and beside it. A model like
    nano is fast enough to answer everybody to the letter as it answers one alone.

    Raises:
        OSError, ValueError: its files cannot be read.
    """
    if dtype != "auto" or quantize is not None or parse_device(device).type != "cpu":
        return dtype
    fields = read_config(Checkpoint.find(place))
    if fields.get("quantization_config"):
        return dtype
    config = CONFIG_MAPPING[model_type_of(fields)].from_dict(copy.deepcopy(fields))
    size = weight_bytes(skeleton(MODEL_CLASSES[model_type_of(fields)], config), None, width=4)
    return "float32" if size < _SMALL else dtype


def free_bytes(device: str) -> int | None:
    """Memory of a device that models may take; None where it does not say."""
    target = parse_device(device)
    if target.type == "cuda":
        free, _ = torch.cuda.mem_get_info(target)
        return int(free)
    return hardware_of(target).free_bytes
