"""The settings of an image processor: where they stand, what they default to, what is refused.

2.5 and 2.6 keep them in `preprocessor_config.json`; 1.0, 2.0 and OmniLMM-12B, which have no such
file, in `config.json`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..checkpoint.fields import check_present
from ..checkpoint.hub import Checkpoint
from ..releases import VISION_TYPES, Release, release_of


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check type and range of our own settings; None is left to the processor.

    Raises:
        ValueError: names the setting, what it is and what it may be.
    """
    for name in (
        "max_slice_nums",
        "scale_resolution",
        "image_size",
        "patch_size",
        "image_feature_size",
    ):
        value = settings.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    side, patch_size = settings.get("image_size"), settings.get("patch_size")
    if side is not None and patch_size is not None and side % patch_size:
        raise ValueError(f"image_size {side} is no multiple of patch_size {patch_size}.")
    for name in ("slice_mode", "use_image_id", "return_released_layout"):
        value = settings.get(name)
        if value not in (None, True, False):
            raise ValueError(f"{name} is {value!r}; it is True or False.")
    if settings.get("compat") not in (None, "released"):
        raise ValueError(f"compat is {settings['compat']!r}; it is None or 'released'.")
    for name in ("do_resize", "do_center_crop"):
        if settings.get(name) is not None:
            raise ValueError(
                f"{name} has no effect here: sizes follow from the slicing rule. "
                "slice_mode=False takes the image as it is."
            )


def check_effect(release: Release, settings: Mapping[str, Any]) -> None:
    """Check that settings have an effect in this release; None is no setting.

    Raises:
        ValueError: names the setting and the reason.
    """
    if release.slicing == "adaptive":
        if settings.get("image_size") is not None:
            raise ValueError(
                f"image_size has no effect for {release.name}: it cuts pictures to slices of about "
                "scale_resolution squared pixels. Set scale_resolution."
            )
        return
    reason = f"{release.name} squeezes every picture into one square and never cuts it"
    for name in ("max_slice_nums", "scale_resolution"):
        if settings.get(name) is not None:
            raise ValueError(f"{name} has no effect: {reason}. Remove it.")
    if settings.get("slice_mode"):
        raise ValueError(f"slice_mode=True is not possible: {reason}. Remove it.")


def settings_without_file(name_or_path: Any, **kwargs: Any) -> dict[str, Any] | None:
    """Settings of a checkpoint whose release has no `preprocessor_config.json`, from `config.json`.

    Args:
        name_or_path: folder or hub name; kwargs: of the hub, others have no effect.

    Returns:
        None when the checkpoint has the file, or its release should have.
    """
    checkpoint = Checkpoint.at(name_or_path, kwargs)
    if checkpoint.find_file(IMAGE_PROCESSOR_NAME) is not None:
        return None
    if checkpoint.find_file(CONFIG_NAME) is None:
        return None
    config = checkpoint.read_json(CONFIG_NAME)
    if config.get("model_type") not in VISION_TYPES:
        return None
    release = release_of(config)
    if release.has_preprocessor_config:
        return None
    settings = {
        "version": release.version,
        "image_processor_type": "MiniCPMVImageProcessor",
        "image_feature_size": config.get("query_num", config.get("num_query")),
        "patch_size": config.get("patch_size"),
    }
    if release.slicing == "square":
        settings["image_size"] = config.get("image_size")
    else:
        sliced = {**config, **(config.get("slice_config") or {})}
        needed = ("max_slice_nums", "scale_resolution")
        check_present("config.json", sliced, needed, "it says how pictures are cut")
        for name in ("slice_mode", "max_slice_nums", "scale_resolution"):
            settings[name] = sliced.get(name)
    return {name: value for name, value in settings.items() if value is not None}


def defaults_of(release: Release) -> dict[str, Any]:
    """What the row of a release says, for settings that its files leave unsaid."""
    defaults: dict[str, Any] = {
        **release.tags,
        "image_mean": release.image_mean,
        "image_std": release.image_std,
    }
    if release.slicing == "square":
        never = {"max_slice_nums": None, "scale_resolution": None, "slice_mode": False}
        defaults |= {"image_size": 448, **never}
    return defaults


def normalise_keys(kwargs: Any) -> dict[str, Any]:
    """Released keys under transformers' names; a file that gives both must give the same."""
    kwargs = dict(kwargs)
    for ours, theirs in (("image_mean", "norm_mean"), ("image_std", "norm_std")):
        if theirs not in kwargs:
            continue
        value = kwargs.pop(theirs)
        if kwargs.get(ours) is None:
            kwargs[ours] = value
        elif hashable(kwargs[ours]) != hashable(value):
            raise ValueError(
                f"{ours} is {kwargs[ours]} and {theirs} {value}; they are two names of one setting."
            )
    kwargs.pop("auto_map", None)  # names code files of the released repository, which we replace
    return kwargs


def hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple | np.ndarray) else value
