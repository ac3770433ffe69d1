"""The loaders of the model cards: `AutoModel` and its siblings give the classes with `chat()`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import transformers

from .checkpoint.hub import HUB_KEYWORDS, Checkpoint, hub_keywords
from .loader import MODEL_CLASSES
from .processing.processor import MiniCPMVProcessor
from .processing.text import load_text_tokenizer
from .released_api import MiniCPMForCausalLM, MiniCPMV, MiniCPMV2
from .releases import VISION_TYPES, model_type_of, release_of

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
        checkpoint, kwargs = _found(pretrained_model_name_or_path, kwargs)
        with checkpoint.naming_damage():
            model_class = _model_class(_fields(checkpoint, kwargs))
            model = model_class.from_pretrained(checkpoint.location, *args, **kwargs)
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
        checkpoint, kwargs = _found(pretrained_model_name_or_path, kwargs)
        with checkpoint.naming_damage():
            model_type = model_type_of(_fields(checkpoint, kwargs))
            read = transformers.AutoTokenizer.from_pretrained
            if model_type in MODEL_CLASSES and model_type not in VISION_TYPES:
                read = load_text_tokenizer
            return read(checkpoint.location, *args, **kwargs)


class AutoProcessor:
    """The processor of a checkpoint: pictures and text to model inputs."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, **kwargs: Any) -> MiniCPMVProcessor:
        """Load a processor by folder, hub name, version or "nano"; keywords as in transformers."""
        checkpoint, kwargs = _found(pretrained_model_name_or_path, kwargs)
        with checkpoint.naming_damage():
            model_type = model_type_of(_fields(checkpoint, kwargs))
            if model_type not in VISION_TYPES:
                raise ValueError(
                    f"{checkpoint.location!r} is a {model_type!r} model, which does not support "
                    "images. Use AutoTokenizer."
                )
            return MiniCPMVProcessor.from_pretrained(checkpoint.location, **kwargs)


def _found(
    name_or_path: str | Path, kwargs: Mapping[str, Any]
) -> tuple[Checkpoint, dict[str, Any]]:
    """The checkpoint of a name, and the keywords for the native classes.

    `revision="main"` is what transformers takes when nothing is said, for folders too.
    """
    hub = hub_keywords(kwargs)
    if hub.get("revision") == "main":
        del hub["revision"]
    checkpoint = Checkpoint.find(name_or_path, **hub, variant=kwargs.get("variant"))
    checkpoint.check()
    unused = (*_REMOTE_CODE_KEYWORDS, *HUB_KEYWORDS)
    kept = {key: value for key, value in kwargs.items() if key not in unused}
    return checkpoint, kept | checkpoint.keywords


def _fields(checkpoint: Checkpoint, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `config.json`, or of the config among the keywords."""
    if kwargs.get("config") is not None:
        return kwargs["config"].to_dict()
    return checkpoint.read_json("config.json")


def _model_class(fields: Mapping[str, Any]) -> Any:
    """The class whose `chat()` is that of the release; transformers' own for other models."""
    model_type = model_type_of(fields)
    if model_type == "minicpm":
        return MiniCPMForCausalLM
    if model_type == "minicpmv":
        return {"1.0": MiniCPMV2, "2.0": MiniCPMV2}.get(release_of(fields).version, MiniCPMV)
    return MODEL_CLASSES.get(model_type, transformers.AutoModelForCausalLM)


__all__ = ["AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoTokenizer"]
