"""The loaders of the model cards: `AutoModel` and its siblings give the classes with `chat()`."""

from collections.abc import Mapping
from typing import Any, Literal

import transformers
from transformers import PreTrainedConfig

from .loader import MODEL_CLASSES, VISION_TYPES, locate
from .processing.processor import MiniCPMVProcessor
from .processing.text import load_text_tokenizer
from .released_api import MiniCPMForCausalLM, MiniCPMV, MiniCPMV2
from .releases import model_type_of, release_of

# Keywords of the released loaders that native classes have no use for.
_REMOTE_CODE_KEYWORDS = ("trust_remote_code", "code_revision")


class AutoModel:
    """`AutoModel` of the model cards: the class with the head and `chat()`."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: Any,
        *args: Any,
        compat: Literal["released"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model by folder, hub name, version or "nano"; keywords as in transformers.

        `trust_remote_code` is accepted and has nothing to trust: no code of a checkpoint is run.
        `compat="released"` lets `chat()` reproduce the quirks in docs/differences.md.
        """
        path = locate(pretrained_model_name_or_path)
        kwargs = _without_remote_code(kwargs)
        model_class = _model_class(_fields(path, kwargs))
        model = model_class.from_pretrained(path, *args, **kwargs)
        if compat is not None:
            if not issubclass(model_class, MiniCPMV | MiniCPMForCausalLM):
                raise ValueError(
                    f"compat={compat!r} has no effect: {model_class.__name__} has no chat()."
                )
            model.compat = compat
        return model


class AutoModelForCausalLM(AutoModel):
    """The same under the name that other cards import."""


class AutoTokenizer:
    """`AutoTokenizer` of the model cards."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a tokenizer by folder, hub name, version or "nano"; keywords as in transformers."""
        path = locate(pretrained_model_name_or_path)
        kwargs = _without_remote_code(kwargs)
        model_type = model_type_of(_fields(path, kwargs))
        if model_type in MODEL_CLASSES and model_type not in VISION_TYPES:
            return load_text_tokenizer(path, *args, **kwargs)
        return transformers.AutoTokenizer.from_pretrained(path, *args, **kwargs)


class AutoProcessor:
    """The processor of a checkpoint: pictures and text to model inputs."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, **kwargs: Any) -> MiniCPMVProcessor:
        """Load a processor by folder, hub name, version or "nano"; keywords as in transformers."""
        path = locate(pretrained_model_name_or_path)
        model_type = model_type_of(_fields(path, kwargs))
        if model_type not in VISION_TYPES:
            raise ValueError(
                f"{path!r} is a {model_type!r} model, which sees no pictures. Use AutoTokenizer."
            )
        return MiniCPMVProcessor.from_pretrained(path, **_without_remote_code(kwargs))


def _fields(path: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `config.json`, or of the config among the keywords."""
    if kwargs.get("config") is not None:
        return kwargs["config"].to_dict()
    return PreTrainedConfig.get_config_dict(path, **_hub_keywords(kwargs))[0]


def _model_class(fields: Mapping[str, Any]) -> Any:
    """The class whose `chat()` is that of the release; transformers' own for other models."""
    model_type = model_type_of(fields)
    if model_type == "minicpm":
        return MiniCPMForCausalLM
    if model_type == "minicpmv":
        return {"1.0": MiniCPMV2, "2.0": MiniCPMV2}.get(release_of(fields).version, MiniCPMV)
    return MODEL_CLASSES.get(model_type, transformers.AutoModelForCausalLM)


def _without_remote_code(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in _REMOTE_CODE_KEYWORDS}


def _hub_keywords(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
    return {key: kwargs[key] for key in names if key in kwargs}


__all__ = ["AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoTokenizer"]
