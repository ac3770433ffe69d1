"""The frames of a video that a benchmark shows, and the subtitles that are read out meanwhile.

The places are VLMEvalKit's: with a number, interior points that cut the video into equal parts;
with a rate, one frame for each moment from the first on. A profile that says neither leaves the
choice to the model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..media.frames import Timeline, choose_frames
from ..media.image import load_image
from ..media.source import PICTURE_SUFFIXES, open_source
from ..media.video import reader_of

_TIME = r"(?:(\d+):)?(\d+):(\d+)[.,](\d+)"
_SPAN = re.compile(rf"{_TIME}\s*-->\s*{_TIME}")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Frames:
    """Frames of one video, with when they are shown, in seconds; no times for a folder."""

    images: list[Image.Image]
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Subtitle:
    """A line, and from when to when it is shown, in seconds."""

    start_s: float
    end_s: float
    text: str


def interior_points(count: int, number: int) -> list[int]:
    """`number` of `count` frames, at equal steps from each other and from both ends."""
    if number >= count:
        return list(range(count))
    step = count / (number + 1)
    return [int(step * place) for place in range(1, number + 1)]


def one_each_moment(timeline: Timeline, fps: float, most: int | None) -> list[int]:
    """`fps` frames a second from the first on; of more than `most`, the middle ones of equal
    parts."""
    count = len(timeline.starts_s)
    number = max(1, int(count / timeline.fps * fps))
    step = timeline.fps / fps
    found = sorted({min(int(place * step), count - 1) for place in range(number)})
    return found if most is None else choose_frames(found, most)


def frames_of(video: Path, *, num_frames: int | None, fps: float | None) -> Frames:
    """The chosen frames of a file, or of a folder of pictures in the order of their names.

    Args:
        num_frames: so many; beside `fps` the most.
        fps: frames a second; of a folder, whose pictures have no times, all are taken.

    Raises:
        OSError: it is not there. ValueError: it is damaged, or no video.
    """
    if video.is_dir():
        files = sorted(each for each in video.iterdir() if each.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise ValueError(f"{video} is a folder without pictures; expected frames of a video.")
        if num_frames:
            files = [files[index] for index in interior_points(len(files), num_frames)]
        return Frames([load_image(str(file)) for file in files])
    file, name = open_source(video, "video")
    with file:
        reader = reader_of(file, name)
        file.seek(0)
        timeline = reader.timeline(file, name)
    if fps:
        chosen = one_each_moment(timeline, fps, num_frames)
    else:
        chosen = interior_points(len(timeline.starts_s), num_frames or 1)
    file, name = open_source(video, "video")
    with file:
        images = list(reader.frames(file, name, chosen))
    return Frames(images, tuple(float(timeline.starts_s[index]) for index in chosen))


def read_subtitles(path: Path) -> list[Subtitle]:
    """The lines of an SRT or WebVTT file, without marks of their looks.

    Raises:
        OSError: it cannot be read. ValueError: it holds no lines with times.
    """
    found: list[Subtitle] = []
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines):
        span = _SPAN.search(line)
        if span is None:
            continue
        text = []
        for following in lines[number + 1 :]:
            if not following.strip():
                break
            text.append(_TAG.sub("", following).strip())
        groups = span.groups()
        spoken = " ".join(filter(None, text))
        found.append(Subtitle(_seconds(groups[:4]), _seconds(groups[4:]), spoken))
    if not found and any(line.strip() for line in lines):
        raise ValueError(f"{path} has no lines with times; expected 00:00:01,000 --> 00:00:02,000.")
    return found


def spoken_at(subtitles: Sequence[Subtitle], times_s: Sequence[float]) -> str:
    """The lines that are shown at one of these moments, each once, in their order."""
    lines = [
        each.text
        for each in subtitles
        if each.text and any(each.start_s <= time <= each.end_s for time in times_s)
    ]
    return "\n".join(lines)


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = parts
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0)
    return whole + float(f"0.{fraction}")
