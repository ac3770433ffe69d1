"""What a model was trained with: written beside its weights, and compared when it is loaded."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..releases import RELEASES

FORMAT = 1
_PICTURES = ("max_slice_nums", "use_image_id")
_SHOWN = {
    "chat_template_sha256": "chat template",
    "tokenizer_sha256": "tokenizer",
    "preprocessor_sha256": "image preprocessing",
}


def hashes_of(processor: Any) -> dict[str, str]:
    """Of everything in a processor that tokens and pixels depend on, but for the settings of
    pictures, which stand beside them."""
    tokenizer = processor.tokenizer
    image_processor = getattr(processor, "image_processor", None)
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    written = {} if image_processor is None else dict(image_processor.to_dict())
    images = {name: value for name, value in written.items() if name not in _PICTURES}
    return {
        "chat_template_sha256": _sha256(str(template)),
        "tokenizer_sha256": _sha256(tokenizer.backend_tokenizer.to_str()),
        "preprocessor_sha256": _sha256(json.dumps(images, sort_keys=True, default=str)),
    }


def release_name(model: Any) -> str:
    """The name of a model's release: "2.6"; of a text model its kind."""
    version = getattr(model.config, "version", None)
    return str(version) if version in RELEASES else str(model.config.model_type)


def check_settings(settings: Mapping[str, Any], model: Any, processor: Any, name: str) -> None:
    """Refuse to load what was trained with other tokens or pixels than it would get here.

    Args:
        settings: as written; entries that are not there are not compared.
        name: of the adapter.

    Raises:
        ValueError: something differs, or a later version has written them.
    """
    if settings.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"training_settings.json of {name!r} has the format {settings['format']!r}; this "
            f"version reads {FORMAT}. Install a newer minicpmv."
        )
    check_release(settings, model, name)
    for key, kind in (("max_slice_nums", int), ("use_image_id", bool)):
        value = settings.get(key)
        if value is not None and type(value) is not kind:
            raise ValueError(
                f"training_settings.json of {name!r} has {key} {value!r}; expected a value of type "
                f"{kind.__name__}."
            )
    check_processor(settings, processor, name)


def check_processor(settings: Mapping[str, Any], processor: Any, name: str) -> None:
    """Refuse tokens or pixels that are others than in the training.

    Raises:
        ValueError: something differs; only what `settings` has is compared.
    """
    ours = hashes_of(processor)
    for key, what in _SHOWN.items():
        if settings.get(key, ours[key]) != ours[key]:
            raise ValueError(
                f"{name!r} was trained with another {what} than the model has here. Give the model "
                f"that it was trained on ({settings.get('base_model')}), with its own files."
            )


def check_release(settings: Mapping[str, Any], model: Any, name: str) -> None:
    """
    Raises:
        ValueError: it belongs to another release.
    """
    ours = release_name(model)
    if settings.get("release", ours) != ours:
        raise ValueError(
            f"The adapter {name!r} belongs to the release {settings['release']} and the model is "
            f"{ours}. Give its own model, {settings.get('base_model')}."
        )


def use_settings(settings: Mapping[str, Any], model: Any, processor: Any) -> None:
    """Let a model and its processor cut and number pictures as in the training."""
    for name, value in other_pictures(settings, processor).items():
        setattr(processor.image_processor, name, value)
        sliced = getattr(model.config, "slice_config", None)
        if sliced and name in sliced:
            model.config.slice_config = sliced | {name: value}
        elif hasattr(model.config, name):
            setattr(model.config, name, value)


def pictures_of(processor: Any) -> dict[str, Any]:
    """How a processor cuts and numbers pictures; None where it does not."""
    image_processor = getattr(processor, "image_processor", None)
    return {name: getattr(image_processor, name, None) for name in _PICTURES}


def other_pictures(settings: Mapping[str, Any], processor: Any) -> dict[str, Any]:
    """Settings of pictures that the training had otherwise than a processor has."""
    return {
        name: settings[name]
        for name, value in pictures_of(processor).items()
        if value is not None and settings.get(name, value) not in (None, value)
    }


def written_settings(fields: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with these settings wherever it has them: `slice_config` and others inside."""
    return {
        key: asked.get(key, value)
        if not isinstance(value, dict)
        else written_settings(value, asked)
        for key, value in fields.items()
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


__all__ = [
    "FORMAT",
    "check_processor",
    "check_release",
    "check_settings",
    "hashes_of",
    "other_pictures",
    "pictures_of",
    "release_name",
    "use_settings",
    "written_settings",
]
