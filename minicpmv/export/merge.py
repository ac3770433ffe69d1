"""An adapter put into the weights of its model: a checkpoint in the released layout.

Tensor by tensor, in float32, rounded once to the dtype of the file; the model itself is not built.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adapters.base import adapter_base, naming_adapter
from ..adapters.deltas import Deltas
from ..adapters.folder import PREFIX, AdapterFiles
from ..adapters.load import check_fits
from ..adapters.settings import check_settings, other_pictures, written_settings
from ..checkpoint.files import parse_size, read_json_file
from ..checkpoint.hub import SMALL_FILES, Checkpoint
from ..checkpoint.tensors import listed, skeleton
from ..checkpoint.weights import WeightFiles, write_shards
from ..loader import (
    MODEL_CLASSES,
    load_processor,
    model_config,
    read_config,
)
from ..releases import model_type_of
from .folders import check_out, write_json, written_whole
from .tensors import check_finite, our_name, tensors_of

_WRITTEN_ANEW = {"config.json", "adapter_config.json"}
_HEAD = f"{PREFIX}lm_head.weight"


@dataclass(frozen=True)
class Merged:
    """What was written.

    Fields:
        folder: with the checkpoint; base: the model that it was made of.
        num_changed: tensors that differ from the base's; num_tensors: all.
        num_bytes: of the weights.
    """

    folder: Path
    base: str
    num_changed: int
    num_tensors: int
    num_bytes: int


def merge(
    adapter: str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = "2GB",
    on_progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Write a checkpoint with an adapter in its weights; `out` appears only when it is whole.

    Args:
        adapter: a folder, or a repository on the hub.
        model: that it was trained on, where its files do not say or the place has changed.
        revision: of the model on the hub.
        overwrite: replace `out` when it is a model's folder.
        max_shard_size: the most bytes of a weight file.
        on_progress: called with the number of tensors written, and of all.

    Raises:
        ValueError: the adapter does not belong to the model, or the model's weights are quantised.
        OSError: a file is missing or damaged, `out` is there already, or the disk is full.
    """
    out = Path(out)
    shard_size = parse_size(max_shard_size)
    files = AdapterFiles.find(adapter)
    check_out(out, files.config.parent, overwrite)
    of_adapter = adapter if model is None else None
    if model is None:
        model, revision = adapter_base(adapter, revision)
    with naming_adapter(of_adapter):
        checkpoint = Checkpoint.find(model, revision=revision)
    if checkpoint.is_folder:
        check_out(out, Path(checkpoint.location), overwrite)
    fields = read_config(checkpoint)
    if fields.get("quantization_config") or checkpoint.find_file("quantize_config.json"):
        raise ValueError(
            f"The weights of {str(model)!r} are quantised. Give the full weights of its release as "
            "the model, and quantise the result."
        )
    processor = load_processor(checkpoint, fields)
    model_class, config = MODEL_CLASSES[model_type_of(fields)], model_config(fields)
    empty = skeleton(model_class, config)
    check_settings(files.settings, empty, processor, files.name)
    deltas = Deltas.read(files, empty)
    check_fits(skeleton(model_class, config), files)
    folder = checkpoint.download()
    check_out(out, folder, overwrite)
    with ExitStack() as stack:
        weights = stack.enter_context(WeightFiles(checkpoint.kept().weight_files()))
        tensors_of(checkpoint, weights, empty)
        sources = _sources(weights, empty, deltas, fields, files.name)
        outlines = {
            name: torch.empty(weights.shapes[source], dtype=_dtype(weights, source), device="meta")
            for name, source in sources.items()
        }
        num_bytes = sum(tensor.nbytes for tensor in outlines.values())
        unfinished = stack.enter_context(written_whole(out, num_bytes))
        changed = {name for name in sources if deltas.changes(our_name(name, empty))}

        def make(name: str) -> torch.Tensor:
            with weights.mapped(sources[name]) as tensor:
                if name in changed:
                    tensor = deltas.apply(our_name(name, empty), tensor)
                else:
                    tensor = tensor.clone()
            check_finite(name, tensor, weights.file_of(sources[name]))
            return tensor

        for done, _ in enumerate(write_shards(unfinished, outlines, make, shard_size), 1):
            if on_progress is not None:
                on_progress(done, len(outlines))
        for name in SMALL_FILES:
            if name not in _WRITTEN_ANEW and (folder / name).is_file():
                shutil.copyfile(folder / name, unfinished / name)
        _write_processing(unfinished, fields, other_pictures(files.settings, processor))
        fields.pop("auto_map", None)  # names code that is not in the folder
        write_json(unfinished / "config.json", fields)
    return Merged(out, str(model), len(changed), len(outlines), num_bytes)


def _sources(
    weights: WeightFiles, empty: Any, deltas: Deltas, fields: dict[str, Any], name: str
) -> dict[str, str]:
    """The tensors to write, and those of the base that they come from.

    A head that shares the embeddings gets weights of its own where only one of both was trained,
    and the config says so.

    Raises:
        ValueError: the adapter changes a tensor that the files do not have.
    """
    sources = {each: each for each in weights.shapes}
    by_ours = {our_name(each, empty): each for each in sources}
    if empty.config.tie_word_embeddings:
        embeddings = next(ours for ours in by_ours if ours.endswith("embed_tokens.weight"))
        if not deltas.are_equal(embeddings, _HEAD):
            fields["tie_word_embeddings"] = False
            released = empty.released_name("lm_head.weight")
            if _HEAD not in by_ours:
                sources[released] = by_ours[embeddings]
                by_ours[_HEAD] = released
        elif _HEAD not in by_ours:
            deltas.forget(_HEAD)
    lacking = sorted(deltas.names - by_ours.keys())
    if lacking:
        raise ValueError(
            f"The adapter {name!r} changes tensors that the model's files do not have: "
            f"{listed(lacking)}."
        )
    return sources


def _dtype(weights: WeightFiles, name: str) -> torch.dtype:
    dtype = weights.dtypes[name]
    return weights[name].dtype if dtype is None else dtype


def _write_processing(folder: Path, fields: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """Let the checkpoint cut and number pictures as in the training.

    Args:
        fields: of its config, which are changed.
    """
    path = folder / "preprocessor_config.json"
    if not asked:
        return
    fields |= written_settings(fields, asked)
    if path.is_file():
        before = read_json_file(path)
        write_json(path, written_settings(before, asked))
    else:  # a release that keeps them in its config
        fields |= asked


__all__ = ["Merged", "merge"]
