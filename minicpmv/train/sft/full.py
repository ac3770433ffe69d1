"""A model that was trained whole: a checkpoint in the released layout, and back for resuming."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.hub import SMALL_FILES, Checkpoint
from ...checkpoint.weights import WeightFiles, write_shards
from ...export.folders import write_json
from ...precision import dtype_name

SHARD_BYTES = 2_000_000_000


def save_checkpoint(
    model: Any,
    base: Checkpoint,
    folder: Path,
    *,
    dtype: torch.dtype,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write all weights with the released names, and the small files of the base.

    Args:
        model: one of ours, not in a `PeftModel`.
        dtype: of the weights that are written; float32 keeps what was trained to the bit.
        state: the weights by our names, where they are spread over processes.

    Raises:
        OSError: the disk is full.
    """
    own = dict(_tensors(model)) if state is None else {n: state[n] for n in _names(model)}
    tensors = {model.released_name(name): tensor for name, tensor in own.items()}
    outlines = {
        name: torch.empty(tensor.shape, dtype=_written(tensor.dtype, dtype), device="meta")
        for name, tensor in tensors.items()
    }
    folder.mkdir(parents=True, exist_ok=True)

    def make(name: str) -> Tensor:
        return tensors[name].detach().to("cpu", outlines[name].dtype)

    for _ in write_shards(folder, outlines, make, SHARD_BYTES):
        pass
    small_files(base, folder)
    fields = base.read_json("config.json")
    fields.pop("auto_map", None)  # names code that is not in the folder
    fields.pop("dtype", None)
    # Last: without it no program takes the folder for a model.
    write_json(folder / "config.json", fields | {"torch_dtype": dtype_name(dtype)})


def small_files(base: Checkpoint, folder: Path) -> None:
    """Copy tokenizer, template and preprocessor of the base."""
    for name in SMALL_FILES:
        if name in ("config.json", "adapter_config.json", "quantize_config.json"):
            continue
        path = base.find_file(name)
        if path is not None:
            shutil.copyfile(path, folder / name)


@torch.no_grad()
def load_weights(model: Any, folder: Path) -> None:
    """Put the weights of `save_checkpoint` into a model that is being trained.

    Raises:
        ValueError: a weight is missing, or has another shape.
    """
    with WeightFiles(sorted(folder.glob("*.safetensors"))) as weights:
        for name, tensor in _tensors(model):
            released = model.released_name(name)
            if weights.shapes.get(released) != tuple(tensor.shape):
                raise ValueError(
                    f"{folder} has no {released} of shape {tuple(tensor.shape)}, so it was written "
                    "by another run. Give another --output."
                )
            tensor.copy_(weights[released])


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Every stored tensor once, by our names; a tied head stands in the embeddings."""
    stored = set(model.state_dict())
    named: list[tuple[str, Tensor]] = list(model.named_parameters())
    return named + [(name, tensor) for name, tensor in model.named_buffers() if name in stored]


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in _tensors(model)]


def _written(own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    return dtype if own.is_floating_point else own
