"""Which image and which video belong to which prompt of a batch."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..media.frames import check_sampling, choose_frames
from ..media.policy import current_policy
from ..media.source import is_video_file
from ..media.video import VideoFile, is_animation, is_file, notice_fewer
from .placeholders import IMAGE_MARKER, MARKER, VIDEO_MARKER


def prompts_of(text: Any) -> list[str]:
    """One prompt or several as a list of its own."""
    if isinstance(text, str):
        return [text]
    if isinstance(text, list | tuple) and not text:
        raise ValueError("text is an empty list; give at least one prompt.")
    if isinstance(text, list | tuple) and all(isinstance(prompt, str) for prompt in text):
        return list(text)
    raise TypeError(
        f"text is {type(text).__name__}; it must be a prompt or a list of prompts. "
        "Images go to images=, chat messages to apply_chat_template()."
    )


def markers_of(prompt: str) -> list[str]:
    """ "image" or "video" for each marker of the prompt, in order."""
    return ["image" if found == IMAGE_MARKER else "video" for found in MARKER.findall(prompt)]


def images_per_sample(images: Any, counts: Sequence[int]) -> list[list[Any]]:
    """A list of images for each prompt, where prompt i has `counts[i]` markers.

    Args:
        images: None, one image, a flat list of as many as there are markers, or a list per prompt.

    Raises:
        ValueError: the numbers do not agree.
    """
    if images is None:
        lists: list[list[Any]] = [[] for _ in counts]
    elif _is_nested(images):
        lists = nested_images(images)
    else:
        lists = _distribute(nested_images(images)[0], counts, "image")
    return _checked(lists, counts, "image")


def videos_per_sample(
    videos: Any, counts: Sequence[int], **settings: Any
) -> list[list[Sequence[Any] | VideoFile]]:
    """A list of videos for each prompt, each with its frames; see `videos_as_frames`."""
    if isinstance(videos, list | tuple) and not videos and not any(counts):
        videos = None  # what programs for any model pass where there is none
    if videos is None and settings:
        raise ValueError(f"{' and '.join(settings)} has no effect without a video.")
    lists = videos_as_frames(videos, **settings)
    if videos is None:
        lists = [[] for _ in counts]
    elif _depth(videos) < 3:
        lists = _distribute(lists[0], counts, "video")
    return _checked(lists, counts, "video")


def nested_images(images: Any) -> list[list[Any]]:
    """A list of images per sample: one image and a flat list of images are one sample."""
    if _is_nested(images):
        return [_flat_images(item) for item in images]
    return [_flat_images(images)]


def videos_as_frames(
    videos: Any, *, num_frames: int | None = None, fps: float | None = None
) -> list[list[Sequence[Any] | VideoFile]]:
    """Videos per sample, each with its frames; one video and a flat list of them are one sample.

    Args:
        videos: files (whatever `VideoFile` takes), lists of frames, or arrays (num_frames, height,
            width, channels) or channels first.
        num_frames: take that many of each video, spread evenly.
        fps: take that many per second; files only.

    Raises:
        ValueError: a video is a list without frames, `fps` is asked of one, or both settings or
            impossible ones are given.
    """
    check_sampling(num_frames, fps)
    if videos is None:
        return []
    depth = _depth(videos)
    samples = [[videos]] if depth <= 1 else [videos] if depth == 2 else videos
    return [[sampled_video(video, num_frames, fps) for video in sample or ()] for sample in samples]


def sampled_video(
    video: Any, num_frames: int | None = None, fps: float | None = None
) -> Sequence[Any] | VideoFile:
    """One video with its frames chosen; see `videos_as_frames`."""
    check_sampling(num_frames, fps)
    if is_file(video):
        video = video if isinstance(video, VideoFile) else VideoFile(video)
        return video.sampled(num_frames, fps)
    if fps is not None:
        raise ValueError(
            "fps needs a video file; a list of frames has no time. Use num_frames, or choose the "
            "frames yourself."
        )
    if isinstance(video, Image.Image):
        raise ValueError("A video is one picture. Give a file or a list of frames.")
    if not isinstance(video, Iterable):
        raise ValueError(f"A video is {type(video).__name__}; give a file or a list of frames.")
    frames = list(video)
    if not frames:
        raise ValueError("A video has no frames.")
    if any(frame is None for frame in frames):
        raise ValueError("A video has the frame None, which holds nothing.")
    if num_frames is not None and num_frames > len(frames):
        notice_fewer("The video given as frames", len(frames), num_frames)
    elif num_frames is not None:
        frames = choose_frames(frames, num_frames)
    limit = current_policy().max_frames
    if limit is not None and len(frames) > limit:
        raise ValueError(f"A video has {len(frames)} frames, and {limit} may be shown.")
    return frames


def default_frame_slices(num_frames: int, max_slice_nums: int) -> int:
    """Most detail slices of a frame: 2, and 1 in videos of more than 16, as published for 2.6."""
    return min(2 if num_frames <= 16 else 1, max_slice_nums)


def _is_nested(images: Any) -> bool:
    return isinstance(images, list | tuple) and any(
        isinstance(item, list | tuple) or item is None for item in images
    )


def _flat_images(images: Any) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [image for item in images for image in _flat_images(item)]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)  # a batch of images in one array
    return [images]


def _depth(item: Any) -> int:
    """0 for a frame, 1 for a video, 2 for a list of videos, 3 for a list of these per sample.

    The name of a picture is a frame, that of a video or an animation a video.
    """
    if is_file(item):
        return int(isinstance(item, VideoFile) or is_video_file(item) or is_animation(item))
    if isinstance(item, np.ndarray | torch.Tensor):
        return item.ndim - 3
    if isinstance(item, list | tuple):
        return 1 + max((_depth(inner) for inner in item), default=0)
    return 0


def _distribute(items: list[Any], counts: Sequence[int], kind: str) -> list[list[Any]]:
    if len(items) != sum(counts):
        place = "Sample 0 has" if len(counts) == 1 else f"The {len(counts)} prompts have"
        raise ValueError(
            f"{place} {sum(counts)} {kind} placeholders but {len(items)} {kind}s were given. "
            f"{_advice(kind)}"
        )
    return [items[start:end] for start, end in pairwise(accumulate(counts, initial=0))]


def _checked(lists: list[list[Any]], counts: Sequence[int], kind: str) -> list[list[Any]]:
    if len(lists) != len(counts):
        raise ValueError(
            f"{len(counts)} prompts but {len(lists)} lists of {kind}s. {_advice(kind)}"
        )
    for index, (given, count) in enumerate(zip(lists, counts, strict=True)):
        if len(given) != count:
            raise ValueError(
                f"Sample {index} has {count} {kind} placeholders but {len(given)} {kind}s were "
                f"given. {_advice(kind)}"
            )
    return lists


def _advice(kind: str) -> str:
    marker = IMAGE_MARKER if kind == "image" else VIDEO_MARKER
    return (
        f"{marker} tokens in the prompts should be the same as the number of {kind}s: "
        f"add one per {kind}, or pass {kind}s=[[a], [b, c]], a list per prompt."
    )


def settings_for_videos(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`num_frames` and `fps` of a processor call, flat or in `videos_kwargs`."""
    found = {**kwargs, **(kwargs.get("videos_kwargs") or {})}
    return {name: found[name] for name in ("num_frames", "fps") if found.get(name) is not None}
