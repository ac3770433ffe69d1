"""A checkpoint with its weights packed in 4 or 8 bits, ready to be mapped into memory; or in the
quantised layout of another program (`layouts.py`).

Packed is what `load(quantize=...)` keeps on a CPU; loading it reads the headers and maps
the files, and gives the same answers. The small files are copied, so that the folder is complete.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CONFIG_MAPPING

from ..checkpoint.files import parse_size
from ..checkpoint.hub import SMALL_FILES, Checkpoint
from ..checkpoint.tensors import skeleton
from ..checkpoint.weights import WeightFiles, write_shards
from ..errors import ArgumentError
from ..loader import MODEL_CLASSES, load, load_processor, precision_of, read_config
from ..precision import dtype_name
from ..quantization import weight_bytes
from ..releases import model_type_of
from .folders import check_out, write_json, written_whole
from .layouts import LAYOUTS, LayoutWriter, check_group_size
from .tensors import tensors_of

# Packed weights of ours, by what `load(quantize=...)` calls them.
PACKED: dict[str, Literal["int4", "int8"]] = {
    "packed-int4": "int4",
    "packed-int8": "int8",
    "int8": "int8",
}
FORMATS = ("packed-int4", "packed-int8", "int8", *LAYOUTS)
_WRITTEN_ANEW = {"config.json", "quantize_config.json", "adapter_config.json"}


@dataclass(frozen=True)
class Quantised:
    """What was written: the folder, its format, files and bytes of weights, and those before."""

    folder: Path
    format: str
    num_files: int
    num_bytes: int
    full_bytes: int


def quantize(
    model: str | Path,
    out: str | Path,
    to: str = "packed-int4",
    *,
    group_size: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = "2GB",
    progress: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Quantised:
    """Write a checkpoint with quantised weights; `out` appears only when it is whole.

    Args:
        model: a folder, or a name on the hub, with full weights.
        to: "packed-int4" or "packed-int8", for this package; "int4", the layout of the released
            int4 files; "w4a16", that of compressed-tensors; "gptq".
        group_size: 32, 64 or 128 inputs share a scale in w4a16 and gptq, or all (-1);
            None: 128.
        overwrite: replace `out` when it is a model's folder.
        max_shard_size: the most bytes of a weight file.
        progress: show a bar on stderr while weights are read; None: when stderr is a terminal.
        on_progress: called with the number of tensors written, and of all.

    Raises:
        ValueError: the model cannot be quantised.
        OSError: a file is missing or damaged, `out` is there already, or the disk is full.
    """
    if to not in FORMATS:
        raise ArgumentError(f"`to` is {to!r}; known: {', '.join(FORMATS)}.")
    group_size = check_group_size(to, group_size)
    out = Path(out)
    shard_size = parse_size(max_shard_size)
    checkpoint = Checkpoint.find(model, revision=revision)
    if checkpoint.is_folder:
        check_out(out, Path(checkpoint.location), overwrite)
    fields = read_config(checkpoint)
    _check_full(fields, checkpoint, model)
    load_processor(checkpoint, fields)
    folder = checkpoint.download()
    check_out(out, folder, overwrite)
    stored = precision_of(checkpoint, fields, torch.device("cpu")).stored or torch.float32
    empty = _empty_model(fields)
    full_bytes = weight_bytes(empty, None, stored.itemsize)
    show = on_progress or (lambda done, total: None)
    with ExitStack() as stack:
        if to in PACKED:
            room = weight_bytes(empty, PACKED[to], stored.itemsize)
            unfinished = stack.enter_context(written_whole(out, room))
            chat = load(folder, "cpu", stored, quantize=PACKED[to], progress=progress)
            tensors = _in_released_names(chat.model)
            outlines = {name: tensor.to("meta") for name, tensor in tensors.items()}
            written = write_shards(unfinished, outlines, tensors.pop, shard_size)
            quantization = chat.model.config.quantization_config.to_dict()
        else:
            weights = stack.enter_context(WeightFiles(checkpoint.kept().weight_files()))
            tensors_of(checkpoint, weights, empty)
            writer = LayoutWriter(empty, weights, to, group_size)
            outlines = writer.outlines
            room = sum(tensor.nbytes for tensor in outlines.values())
            unfinished = stack.enter_context(written_whole(out, room))
            written = writer.write(unfinished, shard_size)
            quantization = writer.config_fields()
        for done, _ in enumerate(written, 1):
            show(done, len(outlines))
        if to == "gptq":
            write_json(unfinished / "quantize_config.json", quantization)
        for name in SMALL_FILES:
            if name not in _WRITTEN_ANEW and (folder / name).is_file():
                shutil.copyfile(folder / name, unfinished / name)
        fields.pop("auto_map", None)  # names code that is not in the folder
        fields.pop("dtype", None)
        fields |= {
            "torch_dtype": dtype_name(stored),
            "quantization_config": quantization,
        }
        files = list(unfinished.glob("*.safetensors"))
        num_bytes = sum(tensor.nbytes for tensor in outlines.values())
        write_json(unfinished / "config.json", fields)
    return Quantised(out, to, len(files), num_bytes, full_bytes)


def _check_full(fields: dict[str, Any], checkpoint: Checkpoint, model: str | Path) -> None:
    """Refuse a checkpoint that is quantised already.

    Raises:
        ValueError: it is.
    """
    written = fields.get("quantization_config")
    is_gptq = checkpoint.find_file("quantize_config.json") is not None
    if written or is_gptq:
        method = (written or {}).get("quant_method") or ("gptq" if is_gptq else "bitsandbytes")
        raise ValueError(
            f"The weights of {str(model)!r} are quantised already ({method}). Quantise the full "
            "weights of the release."
        )


def _empty_model(fields: dict[str, Any]) -> Any:
    model_type = model_type_of(fields)
    config = CONFIG_MAPPING[model_type].from_dict(dict(fields))
    return skeleton(MODEL_CLASSES[model_type], config)


def _in_released_names(model: Any) -> dict[str, torch.Tensor]:
    """Every tensor once; a tied head stands in the embeddings."""
    parameters = dict(model.named_parameters())  # without what is tied
    buffers = {n: t for n, t in model.state_dict().items() if n in dict(model.named_buffers())}
    return {model.released_name(name): t.detach() for name, t in (parameters | buffers).items()}


__all__ = ["FORMATS", "Quantised", "quantize"]
