"""Pictures of training rows: opened once to learn their sizes, and again when pixels are needed.

What a prompt needs of a picture are its sizes; what tells pictures apart is the digest of their
pixels. Both are remembered by file, time of change and length, so a picture that many rows show is
decoded once.
"""

import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import torch

from ..engine.pictures import digest
from ..media.image import load_image, to_rgb
from ..processing.batching import sampled_video
from ..processing.cutting import Limited, sliced_images, sliced_video
from ..processing.packing import pixels_of
from ..processing.turns import Looked, Sizes
from .messages import Picture

__all__ = ["Looked", "PictureReader", "PictureRef", "Sizes", "effective"]

Key = tuple[Any, ...]


@dataclass(frozen=True)
class PictureRef:
    """A picture of an example: where its pixels are, and how it is cut.

    Args:
        source: as in `Picture`.
        kind: "image" or "video".
        digest: a hash of the pixels, of all frames.
        sizes: (height, width) in pixels of the image, or of each frame.
        max_slice_nums: the most slices of it, or of each frame; None: as the image processor says.
        target_sizes: (height, width) in patches of each slice.
        num_frames, fps: which frames of a video.
    """

    source: Any
    kind: Literal["image", "video"]
    digest: bytes
    sizes: Sizes
    max_slice_nums: int | None
    target_sizes: Sizes
    num_frames: int | None = None
    fps: float | None = None

    @property
    def num_slices(self) -> int:
        """Rows of `pixel_values` of the picture."""
        return len(self.target_sizes)

    @property
    def cut(self) -> tuple[bytes, Sizes]:
        """What the pixels of its slices are known by."""
        return self.digest, self.target_sizes


class PictureReader:
    """Opens pictures. Safe to share between threads.

    Args:
        num_kept: how many pictures are remembered by their file.
    """

    def __init__(self, num_kept: int = 100_000) -> None:
        self.num_kept = num_kept
        self.num_decoded = 0
        self._looked: OrderedDict[Key, Looked] = OrderedDict()
        self._lock = Lock()

    def look(self, picture: Picture) -> Looked:
        """The sizes and the digest of a picture; it is decoded once.

        Raises:
            OSError: a file cannot be read.
            ValueError: it is no picture, or the media policy in force refuses it.
        """
        key = _key(picture)
        if key is not None:
            with self._lock:
                found = self._looked.get(key)
                if found is not None:
                    self._looked.move_to_end(key)
                    return found
        _check_plain(picture)
        frames = _frames(picture.source, picture.kind, picture.num_frames, picture.fps)
        sizes: list[tuple[int, int]] = []
        hashed = hashlib.blake2b(picture.kind.encode(), digest_size=16)
        for frame in frames:  # one at a time: a video may have many
            image = to_rgb(frame)
            sizes.append((image.height, image.width))
            hashed.update(digest({"type": "image", "image": image}))
        found = Looked(tuple(sizes), picture.kind, hashed.digest(), picture.max_slice_nums)
        with self._lock:
            self.num_decoded += 1
            if key is not None:
                self._looked[key] = found
                if len(self._looked) > self.num_kept:
                    self._looked.popitem(last=False)
        return found

    def pixels(
        self, processor: Any, refs: Sequence[PictureRef]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the vision tower reads of some pictures.

        Returns:
            pixel_values (num_slices, channels, patch_size, patch_size * max_patches) and
            target_sizes (num_slices, 2), int64.

        Raises:
            ValueError: a picture is another one than when its row was encoded.
            OSError: a file cannot be read.
        """
        image_processor = processor.image_processor
        sliced = []
        for ref in refs:
            opened = _frames(ref.source, ref.kind, ref.num_frames, ref.fps)
            frames = [to_rgb(frame) for frame in opened]
            hashed = hashlib.blake2b(ref.kind.encode(), digest_size=16)
            for frame in frames:
                hashed.update(digest({"type": "image", "image": frame}))
            if hashed.digest() != ref.digest:
                raise ValueError(
                    f"{_name(ref.source)} has changed since the data was prepared. Prepare it "
                    "again: remove the data folder of the run."
                )
            if ref.kind == "video":
                kwargs = {"max_slice_nums": ref.max_slice_nums} if ref.max_slice_nums else {}
                sliced += sliced_video(image_processor, frames, kwargs)
            else:
                image = frames[0]
                limited = (
                    image if ref.max_slice_nums is None else Limited(image, ref.max_slice_nums)
                )
                sliced += sliced_images(image_processor, [limited], {})
        sizes = [torch.as_tensor(image.target_sizes) for image in sliced]
        return torch.as_tensor(pixels_of(sliced)), torch.cat(sizes)


def effective(
    picture: Picture, *, num_frames: int | None = None, fps: float | None = None
) -> Picture:
    """The picture with the settings of a run where it has none of its own."""
    if picture.kind != "video" or picture.num_frames is not None or picture.fps is not None:
        return picture
    if num_frames is None and fps is None:
        return picture
    if fps is not None and isinstance(picture.source, tuple):
        return picture  # frames have no time
    return Picture(
        picture.source, picture.kind, picture.max_slice_nums, num_frames, fps, picture.field
    )


def _frames(source: Any, kind: str, num_frames: int | None, fps: float | None) -> Any:
    if kind == "image":
        return [load_image(source)]
    video = list(source) if isinstance(source, tuple) else source
    return (load_image(frame) for frame in sampled_video(video, num_frames, fps))


def _check_plain(picture: Picture) -> None:
    """Raises OSError for a pipe or a device, which may never end and is opened more than once."""
    sources = picture.source if isinstance(picture.source, tuple) else (picture.source,)
    for source in sources:
        if not isinstance(source, str | os.PathLike):
            continue
        try:
            mode = os.stat(source).st_mode
        except (OSError, ValueError):  # opening it will tell
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(
                f"{picture.kind.capitalize()} {str(source)!r} is no plain file. Name one "
                f"{picture.kind} file."
            )


def _key(picture: Picture) -> Key | None:
    """What a file is remembered by; None for pictures in memory and behind URLs."""
    sources = picture.source if isinstance(picture.source, tuple) else (picture.source,)
    states = []
    for source in sources:
        if not isinstance(source, str | os.PathLike):
            return None
        try:
            state = os.stat(source)
        except (OSError, ValueError):  # a URL, data in base64, or nothing; opening it will tell
            return None
        states.append((str(source), state.st_mtime_ns, state.st_size))
    settings = (picture.kind, picture.num_frames, picture.fps, picture.max_slice_nums)
    return (*states, *settings)


def _name(source: Any) -> str:
    return str(source)[:200] if isinstance(source, str | os.PathLike) else "A picture"
