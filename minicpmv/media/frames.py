"""Which frames of a video the model is shown.

The frames are those that were published with MiniCPM-V 2.6: every `round(frames per second)`-th
frame, and of more than 64 the middle one of each of 64 equal parts. Where the time between frames
varies, so that counting frames would not keep time, the frame on display at each moment is taken
instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError

MAX_FRAMES = 64
FRAMES_PER_SECOND = 1.0

_LATE_S = 1e-6  # rounding of times in seconds


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Fields:
        starts_s: (num_frames,) in seconds from the first frame, in order.
        duration_s: until the last frame has been shown.
        fps: frames per second on average.
        default_fps: how many to take per second when nothing is asked for.
    """

    starts_s: np.ndarray[Any, np.dtype[np.float64]]
    duration_s: float
    fps: float
    default_fps: float = FRAMES_PER_SECOND


def choose_indices(
    timeline: Timeline,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    most: int = MAX_FRAMES,
) -> list[int]:
    """Indices of the frames that the model is shown, in order, each once.

    `num_frames` gives that many, or all where there are fewer; else `fps` gives one for each
    moment, at most `most`, and a frame that stands through several moments is taken once.
    """
    count = len(timeline.starts_s)
    if num_frames and num_frames >= count:
        return list(range(count))
    fps = fps or timeline.default_fps
    period_s = timeline.duration_s / num_frames if num_frames else 1 / fps
    even_s = np.arange(count) * (timeline.duration_s / count)
    if np.abs(timeline.starts_s - even_s).max() <= period_s / 2:
        if num_frames:
            return choose_frames(range(count), num_frames)
        return choose_frames(range(0, count, max(1, round(timeline.fps / fps))), most)
    if num_frames:
        moments_s = (np.arange(num_frames) + 0.5) * period_s
        return _apart(_shown(timeline, moments_s), count)
    periods = range(max(1, math.ceil(timeline.duration_s * fps - _LATE_S)))
    moments_s = np.array(choose_frames(periods, most)) * period_s
    return sorted(set(_shown(timeline, moments_s)))


def _shown(timeline: Timeline, moments_s: Any) -> list[int]:
    """The frame on display at each moment."""
    found = np.searchsorted(timeline.starts_s, moments_s + _LATE_S, side="right") - 1
    return [int(index) for index in found]


def _apart(indices: list[int], count: int) -> list[int]:
    """The indices, each moved as little as it takes for all to differ; there are `count`."""
    for place in range(1, len(indices)):
        indices[place] = max(indices[place], indices[place - 1] + 1)
    for place in range(len(indices) - 1, -1, -1):
        last = count - len(indices) + place
        indices[place] = min(indices[place], last)
    return indices


def choose_frames(frames: Sequence[Any], num_frames: int) -> list[Any]:
    """`num_frames` of the frames: the middle one of each of equal parts, as published for 2.6."""
    if len(frames) <= num_frames:
        return list(frames)
    gap = len(frames) / num_frames
    return [frames[int(index * gap + gap / 2)] for index in range(num_frames)]


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
