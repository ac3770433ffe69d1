"""Quantised weights: released int4 files as they are, and quantising while loading.

    quantiser.py      numbers to integers of 4 and 8 bits and their scales
    packed_linear.py  layers with packed weights of ours
    packed_config.py  which parts of a model are packed, and how transformers is told
    packing.py        whole models: packed while full weights are read, and read again
    rows.py           single rows of packed weights
    bits.py           bitsandbytes: NF4 and LLM.int8(), in released files and from full weights
    gguf.py           GGUF files, tensor by tensor
    dense.py          files of other quantisers, unpacked to dense weights; waiting.py, words.py
    gptq.py           AutoGPTQ files, read and written
    awq.py            AutoAWQ files, read
    compressed.py     compressed-tensors W4A16 and W8A16, read and written
    files.py          which tensors a checkpoint's files hold
    headers.py        headers of quantised files, seen as those of full weights
    memory.py         what weights take, computed from shapes

Imported by `model/`, whose `from_pretrained` asks `reader_for` how a checkpoint is to be read; of
ours it imports `checkpoint/`, `kernels/` and the plain modules. Only this room imports
bitsandbytes.
"""

from typing import Any

import torch

from . import compressed
from .awq import AwqReader
from .bits import BitsReader, bits_config
from .compressed import CompressedReader
from .dense import DenseReader
from .files import read_quantization
from .gguf import METHOD as GGUF
from .gguf import GgufReader
from .gptq import GptqReader
from .headers import as_dense
from .memory import weight_bytes
from .packed_config import METHOD, PackedConfig
from .packing import PackedReader, PackingReader

# What `load(quantize=...)` takes. The first two mean bitsandbytes on everything but a CPU.
FORMATS = ("int4", "int8", "nf4", "llm.int8")
# Methods whose files are unpacked to dense weights.
UNPACKED = ("gptq", "awq", compressed.METHOD)
Reader = BitsReader | DenseReader | GgufReader | PackedReader


def format_config(quantize: str, device: torch.device) -> Any:
    """The `quantization_config` of transformers that `quantize` stands for on a device.

    Raises:
        ValueError: no such format.
    """
    if quantize not in FORMATS:
        known = ", ".join(map(repr, FORMATS))
        raise ValueError(f"quantize is {quantize!r}; known: {known}.")
    if device.type == "cpu" and quantize in ("int4", "int8"):
        return PackedConfig(quantize)
    return bits_config(quantize)


def reader_for(model_class: Any, path: Any, keywords: dict[str, Any]) -> Reader | None:
    """The reader for the checkpoint at `path`, from the keywords of `from_pretrained`.

    None for full weights, and for formats that are left to transformers.

    Raises:
        ImportError: bitsandbytes is wanted and not installed.
        ValueError: the tensors of the files are not those of a quantised model.
        OSError: a file is missing or damaged.
    """
    written = read_quantization(path, keywords)
    asked = keywords.get("quantization_config")
    if isinstance(asked, dict) and asked.get("quant_method") == METHOD:
        asked = PackedConfig.from_dict(asked)
    asks_for_bits = getattr(asked, "quant_method", None) == "bitsandbytes"
    if written is None:
        if isinstance(asked, PackedConfig):
            return PackingReader(model_class, path, keywords, asked)
        return BitsReader(model_class, path, keywords, None) if asks_for_bits else None
    if written.get("quant_method") == GGUF and asked is None:
        return GgufReader(model_class, path, keywords, written)
    if asks_for_bits or isinstance(asked, PackedConfig):
        raise ValueError(
            f"The weights of {str(path)!r} are quantised already "
            f"({written.get('quant_method', 'bitsandbytes')}). Leave quantize and "
            "quantization_config out, or take the full weights."
        )
    if written.get("quant_method") == METHOD:
        return PackedReader(model_class, path, keywords, written)
    if written.get("load_in_4bit") or written.get("load_in_8bit"):
        return BitsReader(model_class, path, keywords, written)
    if asked is not None:
        return None
    method = written.get("quant_method")
    if method == "gptq" and not GptqReader.is_elsewhere(model_class):
        return GptqReader(model_class, path, keywords, written)
    if method == "awq":
        return AwqReader(model_class, path, keywords, written)
    if method == compressed.METHOD:
        return CompressedReader(model_class, path, keywords, written)
    return None


__all__ = [
    "FORMATS",
    "UNPACKED",
    "AwqReader",
    "BitsReader",
    "CompressedReader",
    "GgufReader",
    "GptqReader",
    "PackedConfig",
    "PackedReader",
    "PackingReader",
    "as_dense",
    "bits_config",
    "format_config",
    "reader_for",
    "weight_bytes",
]
