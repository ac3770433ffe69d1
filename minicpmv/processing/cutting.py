"""Pictures and frames of a prompt to slices, each picture under its own limit where it has one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from .batching import default_frame_slices
from .packing import Sliced


@dataclass(frozen=True)
class Limited:
    """An image and the most slices of it; the number holds before that of the whole call."""

    image: Any
    max_slice_nums: int


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
    if not images:
        return []
    if any(isinstance(image, Limited) for image in images):
        return [_sliced_alone(image_processor, image, kwargs) for image in images]
    features = image_processor.preprocess(list(images), **{**kwargs, "do_pad": False})
    return [
        Sliced(
            features["pixel_values"][start:end],
            features["target_sizes"][start:end],
            features["image_sizes"][index],
            features["grids"][index],
        )
        for index, (start, end) in enumerate(
            pairwise(accumulate(features["num_slices"], initial=0))
        )
    ]


def _sliced_alone(image_processor: Any, image: Any, kwargs: Mapping[str, Any]) -> Sliced:
    if isinstance(image, Limited):
        # One slice is what releases make that never cut.
        if image.max_slice_nums > 1 or image_processor.release.slicing == "adaptive":
            kwargs = {**kwargs, "max_slice_nums": image.max_slice_nums}
        image = image.image
    (sliced,) = sliced_images(image_processor, [image], kwargs)
    return sliced


def sliced_video(image_processor: Any, video: Any, kwargs: Mapping[str, Any]) -> list[Sliced]:
    """The slices of each frame, of which there are few unless the caller says how many."""
    if kwargs.get("max_slice_nums") is None and image_processor.max_slice_nums is not None:
        most = default_frame_slices(len(video), image_processor.max_slice_nums)
        kwargs = {**kwargs, "max_slice_nums": most}
    # One frame at a time: those of a file are decoded as they are asked for.
    return [sliced for frame in video for sliced in sliced_images(image_processor, [frame], kwargs)]
