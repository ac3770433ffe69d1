"""Pictures and videos named on the command line.

They are opened before the model loads, so that a wrong name costs no waiting.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from minicpmv.errors import ArgumentError

from .usage import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from minicpmv.media.video import VideoFile


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Which frames of a video are shown."""
    parser.add_argument(
        "--num-frames",
        type=int,
        metavar="N",
        default=argparse.SUPPRESS,
        help="show that many frames of a video, evenly spread",
    )
    parser.add_argument(
        "--fps",
        type=float,
        metavar="X",
        default=argparse.SUPPRESS,
        help="show that many frames per second of a video file, at most 64; 1 by default",
    )


def video_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords for `read_files` and `read_video` that were given on the command line."""
    return {name: getattr(args, name) for name in ("num_frames", "fps") if hasattr(args, name)}


def check_video_options(options: dict[str, Any], shown: Sequence[Any]) -> None:
    """`num_frames` and `fps` are for a video; `shown` is all that was named.

    Raises:
        ValueError: there is none, so that they would have no effect.
    """
    from PIL import Image

    if options and all(isinstance(file, Image.Image) for file in shown):
        names = " and ".join(f"`{name}`" for name in options)
        raise ArgumentError(f"{names} would have no effect without a video.")


def read_files(files: Sequence[str], **options: Any) -> list["Image.Image | VideoFile"]:
    """Open every picture and video file: a path, a URL, or `-` for the bytes on stdin.

    Args:
        options: `num_frames` or `fps` of the videos.

    Raises:
        UsageError: stdin is asked for twice.
        ValueError: a file is a folder or neither picture nor video, or stdin is a terminal.
        OSError: a file is missing or cannot be read.
    """
    if list(files).count("-") > 1:
        raise UsageError("The file - was given twice, but stdin can be read only once.")
    return [_read_file(file, options) for file in files]


def read_picture(file: str) -> "Image.Image":
    """Open one picture: a path, a URL, or `-` for the bytes on stdin.

    Raises:
        UsageError: no name was given.
        ValueError: it is a folder or no picture, or stdin is a terminal.
        OSError: the file is missing or cannot be read.
    """
    from minicpmv.media.image import load_image

    if not file:
        raise UsageError("The name of the picture is empty; give a path, a URL, or - for stdin.")
    if Path(file).expanduser().is_dir():
        raise ValueError(f"{file!r} is a folder; name a picture.")
    return load_image(_source(file))


def _read_file(file: str, options: dict[str, Any]) -> "Image.Image | VideoFile":
    from minicpmv.media.image import load_image
    from minicpmv.media.source import is_video_file
    from minicpmv.media.video import is_animation

    source = _source(file)
    if is_video_file(source) or is_animation(source):
        return _video_file(source, options)
    return load_image(source)


def _source(file: str) -> str | bytes | BinaryIO:
    """The path, the bytes from stdin, or what a URL gives."""
    from minicpmv.media.source import open_source

    if file == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("The file - is read from stdin, but nothing is piped into it.")
        return sys.stdin.buffer.read()
    if file.startswith(("http://", "https://")):
        fetched, _ = open_source(file, "image")
        fetched.name = file  # type: ignore[misc]  # for error messages
        return fetched
    path = Path(file).expanduser()
    if file and path.is_dir():
        raise ValueError(
            f"{file!r} is a folder. Frames of a video are shown with ask --video {file}, and with "
            f"/video {file} inside chat."
        )
    return str(path) if file and path.exists() else file


def read_video(paths: Sequence[str], **options: Any) -> "Sequence[Image.Image] | VideoFile":
    """One video: a video file, an animation, a folder of pictures, or the pictures named, in order.

    Args:
        options: `num_frames` or `fps`. Without them at most 64 frames are kept, evenly spread.

    Raises:
        ValueError: there are no frames, or the file cannot be read as a video.
        OSError: a file is missing, or is not a picture.
    """
    path = Path(paths[0]).expanduser()
    if len(paths) == 1 and not (paths[0] and path.is_dir()):
        return _video_file(str(path) if paths[0] and path.exists() else paths[0], options)
    if "fps" in options:
        raise ArgumentError(
            f"`fps` would have no effect on pictures, which have no time: {paths[0]!r}."
        )
    if len(paths) > 1:
        files = list(paths)
    else:
        from minicpmv.media.source import PICTURE_SUFFIXES

        found = [file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
        if not found:
            raise ValueError(f"The folder {str(path)!r} holds no pictures.")
        files = [str(file) for file in sorted(found, key=_numbers_in_name)]
    from minicpmv.media.frames import MAX_FRAMES, check_sampling, choose_frames
    from minicpmv.media.image import load_image
    from minicpmv.media.video import notice_fewer

    num_frames = options.get("num_frames")
    check_sampling(num_frames, None)
    if (num_frames or 0) > len(files):
        notice_fewer("The video given as pictures", len(files), num_frames)
    return [load_image(file) for file in choose_frames(files, num_frames or MAX_FRAMES)]


def _video_file(source: Any, options: dict[str, Any]) -> "VideoFile":
    from minicpmv.media.video import VideoFile

    video = VideoFile(source, **options)
    len(video)  # reads it once, and says now what is wrong with it
    return video


def _numbers_in_name(path: Path) -> list:
    """Sort key under which frame2 comes before frame10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
