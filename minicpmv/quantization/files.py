"""Which tensors a checkpoint's files hold, and what its config says about their bits."""

import copy
from typing import Any

from torch import nn
from transformers import GenerationConfig
from transformers.configuration_utils import PreTrainedConfig

from ..checkpoint.hub import Checkpoint, hub_keywords

# Keywords of the loading itself, whatever a config calls its fields.
_MODEL_KEYWORDS = {"dtype", "quantization_config", "torch_dtype"}


def read_quantization(path: Any, keywords: dict[str, Any]) -> dict[str, Any] | None:
    """`quantization_config` of the checkpoint, else AutoGPTQ's `quantize_config.json`; None without
    both."""
    if path is None:
        return None
    config = keywords.get("config")
    if isinstance(config, PreTrainedConfig):
        written = getattr(config, "quantization_config", None)
        commit = getattr(config, "_commit_hash", None)
    else:
        fields, _ = PreTrainedConfig.get_config_dict(config or path, **hub_keywords(keywords))
        written, commit = fields.get("quantization_config"), fields.get("_commit_hash")
    if written is not None:
        return written if isinstance(written, dict) else written.to_dict()
    checkpoint = Checkpoint.at(path, {"_commit_hash": commit, **keywords})
    if checkpoint.find_file("quantize_config.json") is None:
        return None
    return {"quant_method": "gptq", **checkpoint.read_json("quantize_config.json")}


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


def check_experts(model: Any) -> None:
    """Refuse a mixture whose experts are joined to one tensor.

    Raises:
        ValueError: names the tensor.
    """
    joined = [n for n, p in model.named_parameters() if ".experts." in n and p.ndim > 2]
    if joined:
        raise ValueError(
            f"{joined[0]} holds all experts of a layer, which are not quantised together. "
            "Bring the checkpoint to MiniCPM's layout (minicpmv convert --to minicpm), then "
            "quantise."
        )


def generation_config(checkpoint: Checkpoint, config: Any) -> GenerationConfig:
    """What transformers would read beside weight files: it reads nothing beside a `state_dict`."""
    if checkpoint.find_file("generation_config.json") is None:
        return GenerationConfig.from_model_config(config)
    return GenerationConfig.from_pretrained(checkpoint.location, **checkpoint.keywords)
