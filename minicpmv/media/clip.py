"""Video files that PyAV decodes: when each frame is shown, and chosen frames one by one.

The first reading decodes nothing and notes when each frame is shown (8 bytes per frame); the second
one decodes, and where the container has an index it jumps to the key frame before each chosen
frame.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from .frames import Timeline
from .image import check_pixels, describe
from .policy import notice
from .source import begins_like_video

# ffmpeg's names. Not among them are playlists, which open other files, and text shown as pictures.
_CONTAINERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu",
    "ivf", "flv", "asf", "ogg", "mxf", "nut", "dv", "rm", "wtv",
)  # fmt: skip
_WITH_INDEX = ("mov", "matroska")  # of these a jump to a key frame is exact

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


class Clip:
    """What PyAV decodes."""

    def __init__(self) -> None:
        self.counted = False  # the frames have numbers in place of times
        self.times = np.zeros(0, np.int64)  # of the frames, in the stream's unit
        self.key_times = np.zeros(0, np.int64)  # of those where decoding can begin
        self.num_damaged = 0  # frames that the last reading met

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
        num_missing, self.num_damaged = 0, 0
        for target, time, frame in self._decode(file, name, [int(self.times[i]) for i in chosen]):
            num_missing += time != target
            yield _upright(frame)
        if len(chosen) > 1 and 2 * num_missing > len(chosen):
            raise ValueError(
                f"{name} is damaged: of the {len(chosen)} frames chosen {num_missing} cannot be "
                "decoded. Save or download it again."
            )
        if num_missing or self.num_damaged:
            notice(
                f"{name} is damaged: {max(num_missing, self.num_damaged)} of the frames that were "
                "decoded are missing or incomplete, and those after them may be wrong. Save or "
                "download it again."
            )

    def _decode(
        self, file: Any, name: str, targets: Sequence[int]
    ) -> Iterator[tuple[int, int, Any]]:
        """(target, time, frame) with the frame on display at each of the times."""
        with _stream_of(file, name) as (container, stream):
            check_pixels(
                f"{name} has frames of", stream.codec_context.width, stream.codec_context.height
            )
            jumps = container.format.name.startswith(_WITH_INDEX) and not self.counted
            frames = self._frames(container, stream)
            now = ahead = next(frames, None)
            for target in targets:
                if jumps and ahead is not None:
                    before = np.searchsorted(self.key_times, target, side="right") - 1
                    key_time = int(self.key_times[before]) if before >= 0 else ahead[0]
                    if key_time > ahead[0]:
                        container.seek(key_time, stream=stream)
                        frames = self._frames(container, stream, key_time)
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

    def _frames(
        self, container: Any, stream: Any, begin: int | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Frames with their times, or numbers; what cannot be decoded is left out.

        Damage before `begin`, the key frame jumped to, is none: those frames need earlier ones.
        """
        import av

        time = -1
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                self.num_damaged += begin is None or packet.pts is None or packet.pts >= begin
                continue
            for frame in decoded:
                time = time + 1 if self.counted or frame.pts is None else frame.pts
                self.num_damaged += frame.is_corrupt and (begin is None or time >= begin)
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
