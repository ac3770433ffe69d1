"""A video file as the frames that a model is shown: one a second, at most 64, decoded one by one.

The file is read twice: once to learn when each frame is shown, once for the chosen ones (`clip.py`,
`animation.py`; `frames.py` chooses). So a long video needs no more memory than a short one.

PyAV decodes video (`pip install "minicpmv[video]"`); Pillow decodes GIF, WebP and APNG.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from .animation import Animation
from .clip import Clip
from .frames import MAX_FRAMES, Timeline, check_sampling, choose_indices
from .image import identify_image, is_animated
from .policy import MediaLimitError, current_policy, notice
from .source import may_open, open_source

KEPT_BYTES = 256 * 2**20  # of decoded frames, of one video

_ANIMATION_SUFFIXES = {".gif", ".webp", ".png", ".apng", ".avif"}


class VideoFile:
    """The chosen frames of one video, upright; decoded one at a time, and only once.

    Frames of more than `KEPT_BYTES` altogether are not kept, but decoded again when asked for.

    Args:
        source: a path, bytes, an `http(s)`, `file` or `data:` URL, or a file opened in binary mode.
        num_frames: take that many, the middle one of each of equal parts.
        fps: take that many per second, at most `MAX_FRAMES`. 1 by default, and more in animations
            of less than four seconds. Either `num_frames` or `fps` may be given.

    `len()` and iterating raise:
        ImportError: PyAV is not installed.
        OSError: the file cannot be read or the URL not be fetched.
        ValueError: it is no video, has no frames, is damaged or cut short, or more frames are asked
            for than the policy allows. A frame that cannot be decoded is replaced by the one
            before it, as long as most of the chosen ones can.

    They warn:
        UserWarning: the video has fewer frames than were asked for, or damaged ones.
    """

    def __init__(
        self, source: Any, *, num_frames: int | None = None, fps: float | None = None
    ) -> None:
        check_sampling(num_frames, fps)
        self.source = source
        self.num_frames = num_frames
        self.fps = fps
        self._name: str | None = None
        self._reader: Clip | Animation | None = None
        self._chosen: list[int] = []
        self._kept: list[Image.Image] | None = None
        self._variants: dict[tuple[int | None, float | None], VideoFile] = {}

    def sampled(self, num_frames: int | None, fps: float | None) -> "VideoFile":
        """The same video with these settings, unless it has its own."""
        if (num_frames, fps) == (None, None) or (self.num_frames, self.fps) != (None, None):
            return self
        if (num_frames, fps) not in self._variants:
            variant = VideoFile(self.source, num_frames=num_frames, fps=fps)
            self._variants[num_frames, fps] = variant
        return self._variants[num_frames, fps]

    def __len__(self) -> int:
        self._read()
        return len(self._chosen)

    def __iter__(self) -> Iterator[Image.Image]:
        if self._kept is not None:
            yield from self._kept
            return
        reader = self._read()
        frames: list[Image.Image] = []
        room = KEPT_BYTES
        with self._opened() as (file, name):
            for frame in reader.frames(file, name, self._chosen):
                room -= frame.width * frame.height * len(frame.getbands())
                if room >= 0:
                    frames.append(frame)
                else:
                    frames.clear()
                yield frame
        if room >= 0:
            self._kept = frames

    def __repr__(self) -> str:
        return f"VideoFile({self._name or type(self.source).__name__})"

    def _read(self) -> Clip | Animation:
        """The first reading, done once."""
        if self._reader is None:
            with self._opened() as (file, name):
                reader = reader_of(file, name)
                file.seek(0)
                timeline = reader.timeline(file, name)
            _check_duration(timeline, name)
            self._chosen = self._choose(timeline, name)
            self._reader = reader
        return self._reader

    def _choose(self, timeline: Timeline, name: str) -> list[int]:
        limit = current_policy().max_frames
        most = MAX_FRAMES if limit is None else min(limit, MAX_FRAMES)
        chosen = choose_indices(timeline, num_frames=self.num_frames, fps=self.fps, most=most)
        if limit is not None and len(chosen) > limit:
            raise MediaLimitError(
                f"{name}: {len(chosen)} frames are asked for, and {limit} may be shown. Lower "
                "num_frames.",
                "max_frames",
            )
        if (self.num_frames or 0) > len(chosen):
            notice_fewer(name, len(chosen), self.num_frames)
        elif self.fps is not None and self.fps > timeline.fps * 1.05:
            each = f"{timeline.fps:.3g} frames per second, fewer than the {self.fps:g} asked for"
            notice(f"{name} has {each}; {len(chosen)} are shown.")
        elif self.fps is not None and self.fps * timeline.duration_s > most + 1:
            notice(
                f"{name} takes {timeline.duration_s:.4g} s, which at {self.fps:g} frames per "
                f"second is more than the {most} frames that a video may have; {len(chosen)} are "
                "shown, spread evenly."
            )
        return chosen

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        file, name = open_source(self.source, "video")
        self._name = self._name or name
        with file:
            if isinstance(file, io.BytesIO):
                self.source = file.getvalue()  # fetched once
            yield file, self._name


def is_file(video: Any) -> bool:
    """Whether a video is given as what `VideoFile` takes, rather than as its frames."""
    kinds = (VideoFile, str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(video, kinds) or hasattr(video, "read")


def is_animation(source: Any) -> bool:
    """Whether a path or bytes hold pictures that follow each other."""
    is_path = isinstance(source, str | os.PathLike)
    if is_path and Path(source).suffix.lower() not in _ANIMATION_SUFFIXES:
        return False
    if not is_path and not isinstance(source, bytes | bytearray | memoryview):
        return False
    if is_path and not (may_open(source) and os.path.isfile(source)):
        return False
    with open(source, "rb") if is_path else io.BytesIO(source) as file:
        image = identify_image(file)
        return image is not None and is_animated(image)


def _check_duration(timeline: Timeline, name: str) -> None:
    limit = current_policy().max_duration_s
    if limit is not None and timeline.duration_s > limit:
        raise MediaLimitError(
            f"{name} takes {timeline.duration_s:.4g} s; the limit is {limit:g} s. Cut it.",
            "max_duration_s",
        )


def notice_fewer(name: str, shown: int, asked: int | None) -> None:
    """Warn that a video has fewer frames than were asked for."""
    notice(f"{name} has {shown} frames, fewer than the {asked} asked for; all are shown.")


def reader_of(file: Any, name: str) -> Clip | Animation:
    """What reads this kind of file: video, or pictures that follow each other."""
    image = identify_image(file)
    if image is None:
        return Clip()
    if not is_animated(image):
        raise ValueError(
            f"{name} is a single picture. Show it as an image; a video is a video file, an "
            "animation, or a list of frames."
        )
    return Animation()
