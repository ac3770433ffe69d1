"""What was trained, to a folder: an adapter with exactly those tensors, or the whole model."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.names import location_of
from ..checkpoint.weights import write_tensors
from ..durable import sync, sync_all
from ..quiet import progress_bar
from ..version import VERSION
from .folder import CONFIG, PREFIX, SETTINGS, WEIGHTS, write_json
from .settings import FORMAT, hashes_of, pictures_of, release_name

# Without them no program takes a folder for a model or an adapter: removed first, written last.
_MAGNITUDE = ".lora_magnitude_vector"
_HEADS = ("config.json", CONFIG)


def save_adapter(
    model: Any,
    processor: Any,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write what was trained, and `training_settings.json` beside it.

    With adapters, exactly the tensors that are trained; otherwise the whole model in the released
    layout, with its processor. Files of the same names are replaced, others in the folder stay.

    Args:
        model: as `apply_parts` or `attach` gave it.
        settings: of the training, for `training_settings.json`: `max_slice_nums`, `use_image_id`,
            `dtype`, `data` ...; what is known here is added.
        state_dict: of the model, gathered, where its parameters are spread over processes.
        dtype: of the written weights; as they are when left out.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder = Path(folder).resolve()
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    base = model.get_base_model() if is_peft(model) else model
    name, revision = base_name(base)
    if is_peft(model):
        _write_adapter(model, unfinished, name, revision, state_dict, dtype)
    else:
        _write_model(model, processor, unfinished, state_dict, dtype)
    known = {
        "format": FORMAT,
        "base_model": name,
        "base_revision": revision,
        "release": release_name(base),
        **getattr(model, "trained_parts", {}),
        **pictures_of(processor),
        **hashes_of(processor),
        "dtype": None,
        "data": None,
        "package": VERSION,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    write_json(unfinished / SETTINGS, known | given)
    _put_in_place(unfinished, folder)


def trained_tensors(
    model: Any, state_dict: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of the adapter in use that are trained, by their names in files.

    A resampler's table of positions goes with it, and so does a tied head with its embeddings: PEFT
    reads parts that are kept whole, or not at all.

    Raises:
        ValueError: a parameter is trained that PEFT would not save.
    """
    from peft import get_peft_model_state_dict

    kept: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, state_dict, save_embedding_layers=False
    )
    trained = {
        file_name(name, model.active_adapter)
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    lost = sorted(trained - kept.keys())
    if lost:
        raise ValueError(
            f"{lost[0]} and {len(lost) - 1} more parameters are trained and are in no adapter. "
            "Choose what is trained with apply_parts()."
        )
    return kept


def file_name(name: str, adapter: str = "default") -> str:
    """Name in files of a parameter of a `PeftModel`."""
    name = name.replace(f".modules_to_save.{adapter}.", ".")
    name = name.replace(f"{_MAGNITUDE}.{adapter}.weight", _MAGNITUDE)
    return name.replace(f".{adapter}.", ".")


def base_name(base: Any) -> tuple[str, str | None]:
    """How a model is found again: a hub name, an absolute folder, or "nano"; and its commit."""
    name = str(base.name_or_path)
    path = Path(name)
    if not path.is_dir():
        return name, getattr(base.config, "_commit_hash", None)
    if path.resolve() == Path(location_of("nano")).resolve():
        return "nano", None
    return str(path.resolve()), None


def is_peft(model: Any) -> bool:
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def _write_adapter(
    model: Any,
    folder: Path,
    base: str,
    revision: str | None,
    state_dict: Mapping[str, torch.Tensor] | None,
    dtype: torch.dtype | None,
) -> None:
    tensors = trained_tensors(model, state_dict)
    written = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous().clone()
        for name, tensor in tensors.items()
    }
    write_tensors(written, folder / WEIGHTS[0])
    config = model.peft_config[model.active_adapter]
    fields = config.to_dict() | {
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
    }
    for name in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(fields.get(name), set):
            fields[name] = sorted(fields[name])
    write_json(folder / CONFIG, fields)


def _write_model(
    model: Any,
    processor: Any,
    folder: Path,
    state_dict: Mapping[str, torch.Tensor] | None,
    dtype: torch.dtype | None,
) -> None:
    state = model.state_dict() if state_dict is None else state_dict
    if dtype is not None:
        state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    before = model.config.dtype
    try:
        if dtype is not None:
            model.config.dtype = dtype
        with progress_bar(False):
            model.save_pretrained(folder, state_dict=state)
    finally:
        model.config.dtype = before
    writer = processor if hasattr(processor, "image_processor") else processor.tokenizer
    writer.save_pretrained(folder)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Give files that are whole their place, those last that make the folder a model."""
    sync_all(unfinished)
    if not folder.exists():
        unfinished.rename(folder)
        sync(folder.parent)
        return
    for name in _HEADS:
        if (unfinished / name).exists():
            (folder / name).unlink(missing_ok=True)
    files = sorted(unfinished.iterdir(), key=lambda file: file.name in _HEADS)
    for file in files:
        os.replace(file, folder / file.name)
    sync(folder)
    unfinished.rmdir()


__all__ = ["PREFIX", "base_name", "file_name", "is_peft", "save_adapter", "trained_tensors"]
