"""Quantised weights: released int4 files as they are, and quantising while loading.

    bits.py     bitsandbytes: NF4 and int8, in released files and from full weights
    gptq.py     AutoGPTQ files, unpacked to dense weights
    files.py    which tensors a checkpoint's files hold
    headers.py  headers of quantised files, seen as those of full weights
    memory.py   what weights take, computed from shapes

Imported by `model/`, whose `from_pretrained` asks `reader_for` how a checkpoint is to be read; of
ours it imports `checkpoint/` and the plain modules. Only this room imports bitsandbytes.
"""

from typing import Any

from .bits import BitsReader, bits_config
from .files import read_quantization
from .gptq import GptqReader
from .headers import as_dense
from .memory import weight_bytes


def reader_for(
    model_class: Any, path: Any, keywords: dict[str, Any]
) -> BitsReader | GptqReader | None:
    """The reader for the checkpoint at `path`, from the keywords of `from_pretrained`.

    None for full weights, and for formats that are left to transformers.

    Raises:
        ImportError: bitsandbytes is wanted and not installed.
        ValueError: the tensors of the files are not those of a quantised model.
        OSError: a file is missing or damaged.
    """
    written = read_quantization(path, keywords)
    asked = keywords.get("quantization_config")
    asks_for_bits = getattr(asked, "quant_method", None) == "bitsandbytes"
    if written is None:
        return BitsReader(model_class, path, keywords, None) if asks_for_bits else None
    if asks_for_bits:
        raise ValueError(
            f"The weights of {str(path)!r} are quantised already "
            f"({written.get('quant_method', 'bitsandbytes')}). Leave quantize and "
            "quantization_config out, or take the full weights."
        )
    if written.get("load_in_4bit") or written.get("load_in_8bit"):
        return BitsReader(model_class, path, keywords, written)
    if written.get("quant_method") == "gptq" and asked is None and not GptqReader.is_elsewhere():
        return GptqReader(model_class, path, keywords, written)
    return None


__all__ = ["BitsReader", "GptqReader", "as_dense", "bits_config", "reader_for", "weight_bytes"]
