"""Pictures and frames named on the command line.

They are opened before the model loads, so that a wrong name costs no waiting.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_FRAMES = 64  # of one video, as published with MiniCPM-V 2.6
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}


def read_pictures(files: Sequence[str]) -> list["Image.Image"]:
    """Open every picture: a path, a URL, or `-` for the bytes on stdin.

    Raises:
        ValueError: a file is a folder or a video, or stdin is asked for twice or is a terminal.
        OSError: a file is missing, or is not a picture.
    """
    if list(files).count("-") > 1:
        raise ValueError("The file - was given twice, but stdin can be read only once.")
    return [_read_picture(file) for file in files]


def _read_picture(file: str) -> "Image.Image":
    from minicpmv.processing.images import load_image

    if file == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("The file - reads a picture from stdin, but nothing is piped into it.")
        return load_image(sys.stdin.buffer.read())
    path = Path(file).expanduser()
    if path.is_dir():
        raise ValueError(f"{file!r} is a folder. For the frames of a video: --video {file}")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(_no_video_files(file))
    return load_image(str(path) if path.exists() else file)


def read_frames(paths: Sequence[str]) -> list["Image.Image"]:
    """Frames of one video, in order: a folder of pictures, an animation, or the pictures named.

    At most `MAX_FRAMES` are kept, evenly spread.

    Raises:
        ValueError: there are no frames, or the file is a video that has to be unpacked first.
        OSError: a file is missing, or is not a picture.
    """
    if len(paths) > 1:
        return _thin([_read_picture(path) for path in paths])
    path = Path(paths[0]).expanduser()
    if path.is_dir():
        files = [f for f in path.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES]
        if not files:
            raise ValueError(f"The folder {str(path)!r} holds no pictures.")
        return [_read_picture(str(file)) for file in _thin(sorted(files, key=_numbers_in_name))]
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(_no_video_files(str(path)))
    return _thin(_frames_of_animation(path))


def _frames_of_animation(path: Path) -> list["Image.Image"]:
    """Frames of a GIF, WebP or APNG: one per second, and at least four when there are as many."""
    from PIL import Image, ImageSequence

    with Image.open(path) as animation:
        frames = [frame.convert("RGBA") for frame in ImageSequence.Iterator(animation)]
        # Browsers show a frame whose duration is 0 for a tenth of a second.
        durations_ms = [
            frame.info.get("duration", 0) or 100 for frame in ImageSequence.Iterator(animation)
        ]
    if len(frames) < 2:
        raise ValueError(
            f"{str(path)!r} is a single picture. "
            "For a video give a folder of frames, several pictures, or an animation."
        )
    step_ms = min(1000, sum(durations_ms) / 4)
    chosen, now_ms, next_ms = [], 0.0, 0.0
    for frame, duration_ms in zip(frames, durations_ms, strict=True):
        if now_ms >= next_ms:
            chosen.append(frame)
            next_ms += step_ms
        now_ms += duration_ms
    return chosen


def _thin(frames: list) -> list:
    """At most `MAX_FRAMES`, evenly spread, from the middle of each share."""
    if len(frames) <= MAX_FRAMES:
        return frames
    gap = len(frames) / MAX_FRAMES
    return [frames[int(i * gap + gap / 2)] for i in range(MAX_FRAMES)]


def _numbers_in_name(path: Path) -> list:
    """Sort key under which frame2 comes before frame10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _no_video_files(path: str) -> str:
    return (
        f"{path!r} is a video file, which this version does not read. Unpack one frame a second "
        f"into a folder and give that: ffmpeg -i {path} -vf fps=1 frames/%04d.png"
    )
