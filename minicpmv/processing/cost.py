"""What a picture costs: its cut and its tokens, from the settings of a model and its size alone.

Arithmetic and small files; no weights are loaded, nor torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint.hub import Checkpoint
from ..errors import ArgumentError
from ..releases import VISION_TYPES, model_type_of, release_of
from .placeholders import image_placeholder
from .slicing import SlicePlan, plan_slices, plan_uncut


@dataclass(frozen=True)
class CutSettings:
    """What decides the cut and its text.

    `max_slice_nums` and `scale_resolution` are None for releases that make every picture a square
    of `image_size` pixels; `image_size` is None for the others.
    """

    patch_size: int
    num_queries: int
    max_slice_nums: int | None = None
    scale_resolution: int | None = None
    image_size: int | None = None
    slice_mode: bool = True
    use_image_id: bool = False
    tag_every_slice: bool = False
    pads_uncut: bool = False

    @classmethod
    def read(cls, model: str, revision: str | None) -> "CutSettings":
        """Read the settings of a model.

        Raises:
            ValueError: a field is missing, or the model takes no pictures.
            OSError: there is no such model or file.
        """
        checkpoint = Checkpoint.find(model, revision=revision)
        file = "preprocessor_config.json"
        if checkpoint.find_file(file) is not None:
            config = checkpoint.read_json(file)
        else:
            config, file = _settings_elsewhere(checkpoint, file), "config.json"
        return cls.of(config, f"{file} of {model!r}")

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str = "The image processor") -> "CutSettings":
        """The settings in a `preprocessor_config.json`, or in `to_dict()` of an image processor.

        Args:
            name: of the config, for an error message.

        Raises:
            ValueError: a field is missing.
        """
        release = release_of(config)
        names = ["max_slice_nums", "scale_resolution"]
        names = ["image_size"] if release.slicing == "square" else names
        names += ["patch_size", "image_feature_size"]
        missing = [field for field in names if field not in config]
        if missing:
            raise ValueError(f"{name} lacks {', '.join(missing)}.")
        fields = {field: config[field] for field in names if field != "image_feature_size"}
        return cls(
            **fields,
            num_queries=config["image_feature_size"],
            slice_mode=config.get("slice_mode", True),
            use_image_id=config.get("use_image_id", release.use_image_id),
            tag_every_slice=release.slice_tags == "cell",
            pads_uncut=release.pads_uncut,
        )


def _settings_elsewhere(checkpoint: Checkpoint, missing: str) -> dict[str, Any]:
    """The settings in `config.json`, of a release whose repository has no file `missing`.

    Raises:
        OSError: there is no `config.json` either, or the release should have the file.
        ValueError: the model does not support images.
    """
    if checkpoint.find_file("config.json") is None:
        checkpoint.file(missing)  # names it
    config = checkpoint.read_json("config.json")
    if model_type_of(config) not in VISION_TYPES:
        raise ValueError(
            f"The model {checkpoint.location!r} reads text only, so there is nothing to cut."
        )
    release = release_of(config)
    if release.has_preprocessor_config:
        checkpoint.file(missing)
    return {
        "max_slice_nums": 9,
        "scale_resolution": 448,
        "patch_size": 14,
        "image_size": 448,
        "image_feature_size": config.get("query_num", config.get("num_query", 64)),
        **config,
        "version": release.version,
    }


@dataclass(frozen=True)
class Cost:
    """The cut of a picture of `size` (height, width) pixels, and its tokens."""

    size: tuple[int, int]
    plan: SlicePlan
    patch_size: int
    num_queries: int
    num_tag_tokens: int

    @property
    def num_visual_tokens(self) -> int:
        return self.plan.num_tokens(self.num_queries)

    @property
    def num_tokens(self) -> int:
        return self.num_visual_tokens + self.num_tag_tokens

    def as_dict(self) -> dict[str, Any]:
        plan = self.plan
        patches = plan.target_sizes(self.patch_size)
        return {
            "size": self.size,
            "grid": plan.grid,
            "overview": plan.overview,
            "refined": plan.refined,
            "cell": plan.cell,
            "num_slices": plan.num_slices,
            "slices": [
                {"size": size, "patches": cut}
                for size, cut in zip(plan.sizes, patches, strict=True)
            ],
            "tokens_per_slice": self.num_queries,
            "num_visual_tokens": self.num_visual_tokens,
            "num_tag_tokens": self.num_tag_tokens,
            "num_tokens": self.num_tokens,
        }


def plan_cost(height: int, width: int, max_slices: int | None, settings: CutSettings) -> Cost:
    """Cut a picture of `height` x `width` pixels; count its tokens as the first of a prompt.

    Raises:
        ArgumentError: `max_slices` has no effect.
        ValueError: it is below 1.
    """
    plan = _plan(height, width, max_slices, settings)
    size = (height, width)
    num_tag_tokens = count_tag_tokens(plan, settings)
    return Cost(size, plan, settings.patch_size, settings.num_queries, num_tag_tokens)


def count_tag_tokens(plan: SlicePlan, settings: CutSettings) -> int:
    """Tokens around the slices of a picture that is the first of a prompt."""
    tags = image_placeholder(
        plan.grid,
        0,
        tag_every_slice=settings.tag_every_slice,
        image_id=0 if settings.use_image_id else None,
    )
    # Each tag, each digit of the image's number and each newline is one token.
    return len(re.findall(r"<[^>]+>|\d|\n", tags))


def _plan(height: int, width: int, max_slices: int | None, settings: CutSettings) -> SlicePlan:
    if settings.image_size is not None:
        if max_slices is not None:
            raise ArgumentError(
                "`max_slice_nums` has no effect: the model squeezes every picture into one square."
            )
        return SlicePlan((settings.image_size, settings.image_size))
    if not settings.slice_mode:
        return plan_uncut(height, width, settings.patch_size, fill=settings.pads_uncut)
    assert max_slices is not None
    assert settings.scale_resolution is not None
    return plan_slices(
        height,
        width,
        max_slices=max_slices,
        scale_resolution=settings.scale_resolution,
        patch_size=settings.patch_size,
    )
