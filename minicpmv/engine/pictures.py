"""Pictures of messages, opened, decoded and copied.

A conversation keeps pictures, not names: a file may be overwritten, an upload be read once, an
image be changed in place.
"""

import hashlib
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..media.image import image_from_array, load_image, to_rgb
from ..processing.batching import videos_as_frames
from .request import Messages


def with_pictures_read(
    messages: Messages,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    copy: bool = True,
) -> Messages:
    """The messages with PIL images in place of whatever stood for pictures, and frames in place of
    videos.

    Args:
        messages: in the one form of `Processor.question`.
        num_frames, fps: which frames of the videos, as in `VideoFile`.
        copy: whether PIL images are copied; otherwise those that are there stay.

    Raises:
        OSError, ValueError: a picture or a video cannot be read.
    """
    read = []
    for message in messages:
        if isinstance(message.get("content"), list):
            blocks = [_read(block, num_frames, fps, copy) for block in message["content"]]
            message = {**message, "content": blocks}
        read.append(message)
    return read


def digest(block: Mapping[str, Any]) -> bytes:
    """A hash of the pixels, as RGB, of a block from `request.media_of`."""
    found = hashlib.blake2b(block["type"].encode(), digest_size=16)
    for image in frames_of(block):
        found.update(_KEPT.get(id(image)) or _digest_of(image))
    return found.digest()


def keep_digest(image: Image.Image) -> None:
    """Look at the pixels of an image once for all requests that will show it. Whoever calls this
    does not change the image afterwards.
    """
    if id(image) not in _KEPT:
        _KEPT[id(image)] = _digest_of(image)
        weakref.finalize(image, _KEPT.pop, id(image)).atexit = False


_KEPT: dict[int, bytes] = {}  # by the identity of images that live


def _digest_of(image: Image.Image) -> bytes:
    pixels = to_rgb(image)
    found = hashlib.blake2b(repr(pixels.size).encode(), digest_size=16)
    found.update(pixels.tobytes())
    return found.digest()


def frames_of(block: Mapping[str, Any]) -> list[Image.Image]:
    """The pictures of a block from `request.media_of`."""
    return [block["image"]] if block["type"] == "image" else list(block["video"])


def _read(
    block: dict[str, Any], num_frames: int | None, fps: float | None, copy: bool
) -> dict[str, Any]:
    if block["type"] == "image" and "image" in block:
        return {**block, "image": _image(block["image"], copy)}
    if block["type"] == "video" and "video" in block:
        ((frames,),) = videos_as_frames([block["video"]], num_frames=num_frames, fps=fps)
        return {**block, "video": [_image(frame, copy) for frame in frames]}
    return block


def _image(source: Any, copy: bool) -> Image.Image:
    if isinstance(source, np.ndarray | torch.Tensor):
        return image_from_array(source)
    image = load_image(source)
    return image.copy() if copy and image is source else image
