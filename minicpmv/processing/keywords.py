"""The keywords of a call of the processor: which there are, and which have no effect here."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from transformers.processing_utils import ProcessingKwargs, TextKwargs

from .image_processor import MiniCPMVImageProcessorKwargs

_UNSUPPORTED_TEXT_KWARGS = (
    "text_pair",
    "text_target",
    "text_pair_target",
    "stride",
    "is_split_into_words",
    "return_overflowing_tokens",
    "return_special_tokens_mask",
    "return_length",
    "return_token_type_ids",
)


class MiniCPMVTextKwargs(TextKwargs, total=False):  # type: ignore[call-arg]
    """
    max_inp_length (`int`, *optional*):
        Cut the prompt on the right to this many tokens, as the released `chat()` does. Cutting into
        an image is an error.
    """

    max_inp_length: int | None


class MiniCPMVProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keywords of `MiniCPMVProcessor.__call__`, flat or grouped by what they steer."""

    text_kwargs: MiniCPMVTextKwargs
    images_kwargs: MiniCPMVImageProcessorKwargs
    _defaults = {}  # type: ignore[var-annotated]  # transformers 5.19 reads it


def check_keywords(kwargs: dict[str, Any]) -> None:
    """Check that every keyword of a call is known, and is for prompts of one text. An empty list
    of sounds, which programs for any model pass, is taken out.

    Raises:
        TypeError: one is unknown.
        ValueError: one is for pairs or parts of texts, or for sound.
    """
    for name in ("audio", "audios"):
        sounds = kwargs.pop(name, None)
        if sounds is not None and not (isinstance(sounds, list | tuple) and not sounds):
            raise ValueError(f"Audio input is not supported; remove {name}.")
    groups, known = _known_keywords()
    unknown = set(kwargs) - known
    for group, names in groups.items():
        unknown |= {f"{group}[{name!r}]" for name in set(kwargs.get(group) or {}) - names}
    if unknown:
        raise TypeError(
            f"MiniCPMVProcessor does not know {', '.join(sorted(unknown))}. Known here: compat, "
            "fps, max_inp_length, max_slice_nums, num_frames, return_released_layout, slice_mode, "
            "use_image_id, and the keywords of transformers' processors."
        )
    for name in _UNSUPPORTED_TEXT_KWARGS:
        if kwargs.get(name) or (kwargs.get("text_kwargs") or {}).get(name):
            raise ValueError(f"{name} is not supported: a prompt is one text per sample.")


@cache
def _known_keywords() -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """The keywords of each group, and all that may stand outside of one."""
    annotations = MiniCPMVProcessorKwargs.__annotations__
    groups = {
        name: frozenset(annotation.__annotations__)
        for name, annotation in annotations.items()
        if hasattr(annotation, "__annotations__")
    }
    others = {"common_kwargs", "return_mm_token_type_ids", "return_text_replacement_offsets"}
    return groups, frozenset(others).union(annotations, *groups.values())


def without_image_settings(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords without those of the image processor."""
    settings = set(MiniCPMVImageProcessorKwargs.__annotations__)
    return {name: value for name, value in kwargs.items() if name not in settings}


def asked(kwargs: Mapping[str, Any], merged: Mapping[str, Any], name: str, default: bool) -> bool:
    """Whether a keyword of text is set: in the call, in its group, or among the merged ones."""
    for source in (kwargs, kwargs.get("text_kwargs") or {}, merged):
        if source.get(name) is not None:
            return bool(source[name])
    return default
