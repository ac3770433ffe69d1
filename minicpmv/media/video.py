"""A video file as the frames that a model looks at: one a second, at most 64, decoded one by one.

The frames are those that were published with MiniCPM-V 2.6: every `round(frames per second)`-th
frame, and of more than 64 the middle one of each of 64 equal parts. Where the time between frames
varies, so that counting frames would not keep time, the frame on display at each moment is taken
instead.

The file is read twice. The first reading decodes nothing and notes when each frame is shown (8
bytes per frame); the second one decodes, and where the container has an index it jumps to the key
frame before each chosen frame. So a long video needs no more memory than a short one.

PyAV decodes video (`pip install "minicpmv[video]"`); Pillow decodes GIF, WebP and APNG.
"""

import io
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ..errors import ArgumentError
from .image import MAX_PIXELS, describe, identify_image
from .source import begins_like_video, open_source

MAX_FRAMES = 64
FRAMES_PER_SECOND = 1.0
MIN_ANIMATION_FRAMES = 4  # animations are short; when there are as many

_ANIMATION_SUFFIXES = {".gif", ".webp", ".png", ".apng", ".avif"}
# ffmpeg's names. Not among them are playlists, which open other files, and text shown as pictures.
_CONTAINERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu",
    "ivf", "flv", "asf", "ogg", "mxf", "nut", "dv", "rm", "wtv",
)  # fmt: skip
_WITH_INDEX = ("mov", "matroska")  # of these a jump to a key frame is exact
_LATE_S = 1e-6  # rounding of times in seconds

# The display matrix ((a, b), (c, d)) puts pixel (x, y) at (a x + c y, b x + d y), y downwards.
_TO_UPRIGHT = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class VideoFile:
    """The chosen frames of one video; iterating decodes them anew, one at a time, upright.

    Args:
        source: a path, bytes, an `http(s)`, `file` or `data:` URL, or a file opened in binary mode.
        num_frames: take that many, the middle one of each of equal parts.
        fps: take that many per second, at most `MAX_FRAMES`. 1 by default, and more in animations
            of less than four seconds. Either `num_frames` or `fps` may be given.

    `len()` and iterating raise:
        ImportError: PyAV is not installed.
        OSError: the file cannot be read or the URL not be fetched.
        ValueError: it is no video, has no frames, or is damaged or cut short. Of a video that is
            damaged here and there the frame before stands for one that cannot be decoded, as long
            as this is the smaller part of them.
    """

    def __init__(
        self, source: Any, *, num_frames: int | None = None, fps: float | None = None
    ) -> None:
        check_sampling(num_frames, fps)
        self.source = source
        self.num_frames = num_frames
        self.fps = fps
        self._name: str | None = None
        self._reader: _Clip | _Animation | None = None
        self._chosen: list[int] = []

    def sampled(self, num_frames: int | None, fps: float | None) -> "VideoFile":
        """The same video with these settings, unless it has its own."""
        if (num_frames, fps) == (None, None) or (self.num_frames, self.fps) != (None, None):
            return self
        return VideoFile(self.source, num_frames=num_frames, fps=fps)

    def __len__(self) -> int:
        self._read()
        return len(self._chosen)

    def __iter__(self) -> Iterator[Image.Image]:
        reader = self._read()
        with self._opened() as (file, name):
            yield from reader.frames(file, name, self._chosen)

    def __repr__(self) -> str:
        return f"VideoFile({self._name or type(self.source).__name__})"

    def _read(self) -> "_Clip | _Animation":
        """The first reading, done once."""
        if self._reader is None:
            with self._opened() as (file, name):
                reader = _reader_of(file, name)
                file.seek(0)
                timeline = reader.timeline(file, name)
            self._chosen = choose_indices(timeline, num_frames=self.num_frames, fps=self.fps)
            self._reader = reader
        return self._reader

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        file, name = open_source(self.source, "video")
        self._name = self._name or name
        with file:
            if isinstance(file, io.BytesIO):
                self.source = file.getvalue()  # fetched once
            yield file, self._name


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Fields:
        starts_s: (num_frames,) in seconds from the first frame, in order.
        duration_s: until the last frame has been shown.
        fps: frames per second on average.
        default_fps: how many to take per second when nothing is asked for.
    """

    starts_s: np.ndarray
    duration_s: float
    fps: float
    default_fps: float = FRAMES_PER_SECOND


def choose_indices(
    timeline: Timeline, *, num_frames: int | None = None, fps: float | None = None
) -> list[int]:
    """Which frames of a video are looked at, in order; see `VideoFile`."""
    count = len(timeline.starts_s)
    fps = fps or timeline.default_fps
    period_s = timeline.duration_s / num_frames if num_frames else 1 / fps
    even_s = np.arange(count) * (timeline.duration_s / count)
    if np.abs(timeline.starts_s - even_s).max() <= period_s / 2:
        if num_frames:
            return choose_frames(range(count), num_frames)
        return choose_frames(range(0, count, max(1, round(timeline.fps / fps))), MAX_FRAMES)
    if num_frames:
        moments_s = (np.arange(num_frames) + 0.5) * period_s
    else:
        periods = range(max(1, math.ceil(timeline.duration_s * fps - _LATE_S)))
        moments_s = np.array(choose_frames(periods, MAX_FRAMES)) * period_s
    shown = np.searchsorted(timeline.starts_s, moments_s + _LATE_S, side="right") - 1
    return sorted({int(index) for index in shown})


def choose_frames(frames: Sequence[Any], num_frames: int) -> list[Any]:
    """`num_frames` of the frames: the middle one of each of equal parts, as published for 2.6."""
    if len(frames) <= num_frames:
        return list(frames)
    gap = len(frames) / num_frames
    return [frames[int(index * gap + gap / 2)] for index in range(num_frames)]


def is_file(video: Any) -> bool:
    """Whether a video is given as what `VideoFile` takes, rather than as its frames."""
    names = str | os.PathLike | bytes | bytearray | memoryview
    return isinstance(video, VideoFile | names) or hasattr(video, "read")


def is_animation(source: Any) -> bool:
    """Whether a path or bytes hold pictures that follow each other."""
    is_path = isinstance(source, str | os.PathLike)
    if is_path and Path(source).suffix.lower() not in _ANIMATION_SUFFIXES:
        return False
    if not is_path and not isinstance(source, bytes | bytearray | memoryview):
        return False
    if is_path and not os.path.isfile(source):
        return False
    with open(source, "rb") if is_path else io.BytesIO(source) as file:
        return _is_animated(identify_image(file))


def check_sampling(num_frames: int | None, fps: float | None) -> None:
    """Raise ArgumentError for settings that choose nothing."""
    if num_frames is not None and fps is not None:
        raise ArgumentError(
            f"`num_frames={num_frames}` and `fps={fps}`: each says how many frames of a video to "
            "take. Give one of them."
        )
    if num_frames is not None and (type(num_frames) is not int or num_frames < 1):
        raise ArgumentError(
            f"`num_frames` is {num_frames!r}; it must be a whole number, at least 1."
        )
    if fps is not None and not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise ArgumentError(f"`fps` is {fps!r}; it must be a number above 0.")


def _reader_of(file: Any, name: str) -> "_Clip | _Animation":
    image = identify_image(file)
    if image is None:
        return _Clip()
    if not _is_animated(image):
        raise ValueError(
            f"{name} is a single picture. Show it as an image; a video is a video file, an "
            "animation, or a list of frames."
        )
    return _Animation()


def _is_animated(image: Image.Image | None) -> bool:
    # The pages of a TIFF are no animation.
    formats = ("GIF", "WEBP", "PNG", "AVIF")
    return image is not None and image.format in formats and getattr(image, "n_frames", 1) > 1


class _Animation:
    """GIF, WebP, APNG, AVIF."""

    def timeline(self, file: Any, name: str) -> Timeline:
        durations_ms = []
        for frame in self._frames(file, name):
            # Browsers show a frame whose duration is 0 for a tenth of a second.
            frame.load()  # only then a WebP file tells
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
        check_pixels(name, *image.size)
        try:
            yield from ImageSequence.Iterator(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"{name} is a {image.format} animation, but its data is damaged or cut short "
                f"({error}). Save or download it again."
            ) from None


class _Clip:
    """What PyAV decodes."""

    def __init__(self) -> None:
        self.counted = False  # the frames have numbers in place of times
        self.times = np.zeros(0, np.int64)  # of the frames, in the stream's unit
        self.key_times = np.zeros(0, np.int64)  # of those where decoding can begin

    def timeline(self, file: Any, name: str) -> Timeline:
        times, key_times = array("q"), array("q")
        num_packets, last_time, duration, reached_s = 0, -(2**63), 0, 0.0
        with _stream_of(file, name) as (container, stream):
            # AVI numbers frames in the order they are stored in; raw streams have no times.
            self.counted = container.format.name == "avi"
            packet_is_cut = False
            for packet in _packets(container, name):
                time = packet.dts if packet.pts is None else packet.pts
                if time is not None:
                    end = time + (packet.duration or 0)
                    reached_s = max(reached_s, float(end * packet.time_base))
                if packet.stream_index != stream.index:
                    continue
                num_packets += 1
                packet_is_cut = packet.is_corrupt
                if packet.is_discard:
                    continue  # before the place where an edit begins
                self.counted = self.counted or time is None
                times.append(num_packets if time is None else time)
                if packet.is_keyframe:
                    key_times.append(times[-1])
                if times[-1] >= last_time:
                    last_time, duration = times[-1], packet.duration or 0
            if not times:
                raise ValueError(f"{name} has no frames: its picture track is empty.")
            format_name, declared_fps = container.format.name, float(stream.average_rate or 0)
            declared_s = (container.duration or 0) / 1e6
            missing_s = declared_s - reached_s if format_name.startswith("matroska") else 0.0
            declared_frames = stream.frames if format_name.startswith("mov") else 0
            if (
                (packet_is_cut and format_name != "mpegts")
                or num_packets < declared_frames
                or missing_s > max(1.0, declared_s / 50)
            ):
                promised = f"{declared_frames} frames" if declared_frames else f"{declared_s:.1f} s"
                raise ValueError(
                    f"{name} is cut short: it declares {promised} and ends after {num_packets} "
                    f"frames, {reached_s:.1f} s. Save or download it again."
                )
            unit_s = float(stream.time_base)
        if self.counted:
            self.times = np.arange(len(times))
            fps = declared_fps or 25.0
            return Timeline(self.times / fps, len(times) / fps, fps)
        self.times = np.unique(np.frombuffer(times, np.int64))
        self.key_times = np.unique(np.frombuffer(key_times, np.int64))
        count, span = len(self.times), int(self.times[-1] - self.times[0])
        if not duration and count > 1:
            duration = round(span / (count - 1))
        duration_s = (span + max(duration, 1)) * unit_s
        # The declared rate is the exact one of 23.976 and the like, unless it is a guess.
        fps = count / duration_s
        if declared_fps and abs(declared_fps - fps) <= fps / 100:
            fps = declared_fps
        return Timeline((self.times - self.times[0]) * unit_s, duration_s, fps)

    def frames(self, file: Any, name: str, chosen: Sequence[int]) -> Iterator[Image.Image]:
        num_missing = 0
        for target, time, frame in self._decode(file, name, [int(self.times[i]) for i in chosen]):
            num_missing += time != target
            yield _upright(frame)
        if len(chosen) > 1 and 2 * num_missing > len(chosen):
            raise ValueError(
                f"{name} is damaged: of the {len(chosen)} frames chosen {num_missing} cannot be "
                "decoded. Save or download it again."
            )

    def _decode(self, file: Any, name: str, targets: Sequence[int]) -> Iterator[tuple]:
        """(target, time, frame) with the frame on display at each of the times."""
        with _stream_of(file, name) as (container, stream):
            check_pixels(name, stream.codec_context.width, stream.codec_context.height)
            jumps = container.format.name.startswith(_WITH_INDEX) and not self.counted
            frames = self._frames(container, stream)
            now = ahead = next(frames, None)
            for target in targets:
                if jumps and ahead is not None:
                    before = np.searchsorted(self.key_times, target, side="right") - 1
                    key_time = int(self.key_times[before]) if before >= 0 else ahead[0]
                    if key_time > ahead[0]:
                        container.seek(key_time, stream=stream)
                        frames = self._frames(container, stream)
                        landed = next(frames, None)
                        if landed is None or landed[0] > target:
                            container.seek(int(self.times[0]), stream=stream)
                            frames, jumps = self._frames(container, stream), False
                            landed = next(frames, None)
                        now = ahead = landed
                while ahead is not None and ahead[0] < target:
                    now, ahead = ahead, next(frames, None)
                if ahead is not None and ahead[0] == target:
                    now = ahead
                if now is None:
                    raise ValueError(
                        f"{name} is damaged: none of its {len(self.times)} frames can be decoded. "
                        "Save or download it again."
                    )
                yield target, *now

    def _frames(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """Frames with their times, or numbers; what cannot be decoded is left out."""
        import av

        time = -1
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                continue
            for frame in decoded:
                time = time + 1 if self.counted or frame.pts is None else frame.pts
                yield time, frame


@contextmanager
def _stream_of(file: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """The open container and its picture track."""
    try:
        import av
        from av.stream import Disposition
    except ImportError:
        raise ImportError(
            f'{name} needs PyAV 15 or later, which is not installed: pip install "minicpmv[video]"'
        ) from None
    prefix = file.read(4096)
    if not prefix:
        raise ValueError(f"{name} is empty (0 bytes). Give a video file.")
    file.seek(0)
    try:
        options = {"format_whitelist": ",".join(_CONTAINERS)}
        container = av.open(file, options=options, metadata_errors="replace")
    except av.FFmpegError:
        damage = ", damaged or unfinished" if begins_like_video(prefix) else ""
        raise ValueError(
            f"{name} cannot be read as a video: it holds {describe(prefix)}{damage}. "
            "Give an MP4, MKV, WebM, MOV or AVI file."
        ) from None
    with container:
        pictures = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not pictures:
            held = ", ".join(sorted({stream.type for stream in container.streams}))
            raise ValueError(
                f"{name} has no pictures: it holds {f'{held} only' if held else 'no tracks'}. "
                "Give a file with a video track."
            )
        if pictures[0].codec_context is None:
            raise ValueError(
                f"{name} is coded in a way that PyAV cannot decode. Convert it first: "
                "ffmpeg -i IN OUT.mp4"
            )
        pictures[0].thread_type = "AUTO"
        yield container, pictures[0]


def _packets(container: Any, name: str) -> Iterator[Any]:
    import av

    count = 0
    try:
        for packet in container.demux():
            if packet.size:
                count += 1
                yield packet
    except av.FFmpegError as error:
        raise ValueError(
            f"{name} is damaged after {count} packets ({error.strerror}). Save or download it "
            "again."
        ) from None


def _upright(frame: Any) -> Image.Image:
    image = frame.to_image()
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return image
    a, b, _, c, d = np.sign(np.frombuffer(matrix, np.int32)[:5]).tolist()
    turn = _TO_UPRIGHT.get((a, b, c, d))
    return image if turn is None else image.transpose(turn)


def check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has frames of {width} x {height} = {width * height:,} pixels; the limit is "
            f"{MAX_PIXELS:,}. Make it smaller first."
        )
