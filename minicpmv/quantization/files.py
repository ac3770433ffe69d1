"""Which tensors a checkpoint's files hold, and what its config says about their bits."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import cached_file

_HUB_KEYWORDS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


# Keywords of the loading itself, whatever a config calls its fields.
_MODEL_KEYWORDS = {"dtype", "quantization_config", "torch_dtype"}


def hub_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Those keywords of `from_pretrained` that say where files come from."""
    return {key: keywords[key] for key in _HUB_KEYWORDS if keywords.get(key) is not None}


def read_quantization(path: Any, keywords: dict[str, Any]) -> dict[str, Any] | None:
    """`quantization_config` of the checkpoint, else AutoGPTQ's `quantize_config.json`; None without
    both."""
    if path is None:
        return None
    config, hub = keywords.get("config"), hub_keywords(keywords)
    if isinstance(config, PreTrainedConfig):
        written = getattr(config, "quantization_config", None)
    else:
        written = PreTrainedConfig.get_config_dict(config or path, **hub)[0].get(
            "quantization_config"
        )
    if written is not None:
        return written if isinstance(written, dict) else written.to_dict()
    beside = find_file(path, "quantize_config.json", hub)
    if beside is None:
        return None
    return {"quant_method": "gptq", **json.loads(Path(beside).read_text(encoding="utf-8"))}


def own_config(model_class: Any, path: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    """The keywords, with `config` as an object of its own that may be changed."""
    given = keywords.get("config")
    if isinstance(given, PreTrainedConfig):
        return {**keywords, "config": copy.deepcopy(given)}
    config = model_class.config_class.from_pretrained(given or path, **hub_keywords(keywords))
    # As transformers does: a keyword that names a field of the config sets it.
    fields = {key for key in keywords if key in config.to_dict()} - _MODEL_KEYWORDS
    for key in fields:
        setattr(config, key, keywords[key])
    return {key: value for key, value in keywords.items() if key not in fields} | {"config": config}


def find_file(path: Any, name: str, hub: dict[str, Any]) -> str | None:
    """A file of a folder or of a repository on the hub; None when there is none of that name."""
    return cached_file(
        path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )


def weight_files(path: Any, hub: dict[str, Any], base: str = "model") -> list[str]:
    """The safetensors files of a checkpoint, in pieces or whole.

    Raises:
        OSError: there are none.
    """
    index = find_file(path, f"{base}.safetensors.index.json", hub)
    names = [f"{base}.safetensors"]
    if index is not None:
        names = sorted(set(_weight_map(index).values()))
    files = [find_file(path, name, hub) for name in names]
    for name, file in zip(names, files, strict=True):
        if file is None:
            raise OSError(f"{str(path)!r} has no {name}. Quantised weights are read from there.")
    return [file for file in files if file is not None]


def tensor_names(path: Any, hub: dict[str, Any]) -> set[str]:
    """The names of a checkpoint's tensors; of one in pieces, without fetching the pieces."""
    index = find_file(path, "model.safetensors.index.json", hub)
    if index is not None:
        return set(_weight_map(index))
    names: set[str] = set()
    for file in weight_files(path, hub):
        with safe_open(file, "pt") as tensors:
            names |= set(tensors.keys())
    return names


def _weight_map(index: str) -> dict[str, str]:
    return json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]


def skeleton(model_class: Any, config: Any) -> nn.Module:
    """The model without memory for its parameters: names and shapes."""
    with torch.device("meta"):
        return model_class(config)


def linear_layers(model: Any) -> dict[str, str]:
    """Released name of every linear layer that can be quantised, by our name.

    A model without its head is read from the files of the whole, so its names get their prefix.
    """
    prefix = "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
    return {
        name: model.released_name(f"{prefix}{name}.weight").removesuffix(".weight")
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    }
