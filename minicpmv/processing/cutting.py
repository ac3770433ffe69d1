"""Pictures and frames of a prompt to slices, each picture under its own limit where it has one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .batching import default_frame_slices
from .packing import Sliced


@dataclass(frozen=True)
class Limited:
    """An image and the most slices of it; the number holds before that of the whole call."""

    image: Any
    max_slice_nums: int


@dataclass(frozen=True)
class Sized:
    """An image of which the size alone is known, in pixels."""

    height: int
    width: int


def planned(
    image_processor: Any, looked: Sequence[Sized], limit: int | None, *, is_video: bool = False
) -> list[Sliced]:
    """What `sliced_images` and `sliced_video` give for images of these sizes, without pixels.

    Args:
        limit: the most slices of an image, or of each frame; None: as the image processor says.
    """
    most = image_processor.max_slice_nums if limit is None else limit
    if is_video and limit is None and most is not None:
        most = default_frame_slices(len(looked), most)
    found = []
    for image in looked:
        plan = image_processor.plan_now(image.height, image.width, most)
        found.append(
            Sliced(
                [],
                np.array(plan.target_sizes(image_processor.patch_size), np.int64).reshape(-1, 2),
                (image.width, image.height),
                plan.grid or (0, 0),
            )
        )
    return found


def with_limits(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Normalised messages with `Limited` images in place of `max_slice_nums` beside images."""
    return [
        {**message, "content": [_with_limit(block) for block in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _with_limit(block: dict[str, Any]) -> dict[str, Any]:
    if "max_slice_nums" not in block:
        return block
    rest = {key: value for key, value in block.items() if key != "max_slice_nums"}
    return {**rest, "image": Limited(block["image"], block["max_slice_nums"])}


def sliced_images(
    image_processor: Any, images: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Sliced]:
    """The slices of each image.

    Args:
        images: whatever the image processor opens, or `Limited`.
        kwargs: of the image processor.
    """
    return [_sliced(image_processor, image, kwargs) for image in images]


def _sliced(image_processor: Any, image: Any, kwargs: Mapping[str, Any]) -> Sliced:
    if isinstance(image, Limited):
        # One slice is what releases make that never cut.
        if image.max_slice_nums > 1 or image_processor.release.slicing == "adaptive":
            kwargs = {**kwargs, "max_slice_nums": image.max_slice_nums}
        image = image.image
    features = image_processor.preprocess([image], **{**kwargs, "do_pad": True})
    (image_size,), (grid,) = features["image_sizes"], features["grids"]
    return Sliced(features["pixel_values"], features["target_sizes"], image_size, grid)


def sliced_video(image_processor: Any, video: Any, kwargs: Mapping[str, Any]) -> list[Sliced]:
    """The slices of each frame, of which there are few unless the caller says how many."""
    if kwargs.get("max_slice_nums") is None and image_processor.max_slice_nums is not None:
        most = default_frame_slices(len(video), image_processor.max_slice_nums)
        kwargs = {**kwargs, "max_slice_nums": most}
    # One frame at a time: those of a file are decoded as they are asked for.
    return [_sliced(image_processor, frame, kwargs) for frame in video]


def sliced_block(
    image_processor: Any, block: dict[str, Any], kwargs: Mapping[str, Any]
) -> list[Sliced]:
    """The slices of a block of type image or video, which holds images."""
    if block["type"] == "video":
        return sliced_video(image_processor, block["video"], kwargs)
    return sliced_images(image_processor, [_with_limit(block)["image"]], kwargs)
