"""GIF, WebP, APNG and AVIF animations, which Pillow decodes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from .frames import FRAMES_PER_SECOND, Timeline
from .image import DECODE_ERRORS, check_pixels, identify_image
from .policy import MediaLimitError, current_policy

MIN_ANIMATION_FRAMES = 4  # animations are short; when there are as many


class Animation:
    """The frames of one animation; the file is read from its start each time."""

    def timeline(self, file: Any, name: str) -> Timeline:
        durations_ms: list[float] = []
        for frame in self._frames(file, name):
            # Browsers show a frame whose duration is 0 for a tenth of a second.
            durations_ms.append(frame.info.get("duration", 0) or 100)
        ends_s = np.cumsum(durations_ms) / 1000
        return Timeline(
            starts_s=np.concatenate([[0.0], ends_s[:-1]]),
            duration_s=float(ends_s[-1]),
            fps=len(ends_s) / float(ends_s[-1]),
            default_fps=max(FRAMES_PER_SECOND, MIN_ANIMATION_FRAMES / float(ends_s[-1])),
        )

    def frames(self, file: Any, name: str, chosen: Sequence[int]) -> Iterator[Image.Image]:
        wanted = set(chosen)
        for index, frame in enumerate(self._frames(file, name)):
            if index in wanted:
                yield frame.convert("RGBA")

    def _frames(self, file: Any, name: str) -> Iterator[Image.Image]:
        image = identify_image(file)
        assert image is not None
        check_pixels(f"{name} has frames of", *image.size)
        frames = ImageSequence.Iterator(image)
        limit = current_policy().max_animation_pixels
        count = 0
        while True:
            try:
                frame = next(frames, None)
                count += 1
                if frame is None:
                    return
                if limit is None or count * frame.width * frame.height <= limit:
                    frame.load()  # only then a WebP file tells how long it is shown
            except DECODE_ERRORS as error:
                raise ValueError(
                    f"{name} is a {image.format} animation, but its data is damaged or cut short "
                    f"({error}). Save or download it again."
                ) from None
            if limit is not None and count * frame.width * frame.height > limit:
                raise MediaLimitError(
                    f"{name} has more than {count - 1} frames of {frame.width} x {frame.height} "
                    f"pixels; the limit is {limit:,} pixels in all. Make it smaller or shorter.",
                    "max_animation_pixels",
                )
            yield frame
