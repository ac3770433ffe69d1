"""Frames of a video: decoded once, as many as asked for, or it is said that they are not."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from minicpmv.cli.attachments import read_video
from minicpmv.media import video
from minicpmv.media.frames import choose_indices
from minicpmv.media.image import load_image
from minicpmv.media.policy import MediaLimitError, MediaPolicy, use_policy
from minicpmv.media.video import VideoFile
from minicpmv.processing.batching import videos_as_frames

from ..helpers.clips import clip
from ..helpers.pictures import picture


def test_frames_are_decoded_once_and_kept_within_a_limit(monkeypatch):
    file = VideoFile(clip(30))
    first = list(file)
    assert all(kept is frame for kept, frame in zip(file, first, strict=True))
    assert file.sampled(2, None) is file.sampled(2, None)
    monkeypatch.setattr(video, "KEPT_BYTES", 2 * 192 * 16 * 3)
    large = VideoFile(file.source)
    assert [frame.tobytes() for frame in large] == [frame.tobytes() for frame in first]
    assert next(iter(large)) is not next(iter(large))


def test_fewer_frames_in_a_list_than_asked_for_are_noticed():
    frames = [picture(20, 20)] * 3
    with pytest.warns(UserWarning, match="has 3 frames, fewer than the 5 asked for"):
        videos_as_frames([frames], num_frames=5)


def test_fewer_pictures_in_a_folder_than_asked_for_are_noticed(tmp_path):
    for number in range(2):
        picture(20, 20).save(tmp_path / f"{number}.png")
    with pytest.warns(UserWarning, match="has 2 frames, fewer than the 3 asked for"):
        assert len(read_video([str(tmp_path)], num_frames=3)) == 2


def test_a_sound_film_with_open_groups_is_not_called_damaged():
    """Jumping to a key frame leaves frames before it without what they are made from."""
    options = {"g": "12", "bf": "3", "x264-params": "open-gop=1"}
    data = clip(200, codec="libx264", codec_options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(VideoFile(data, num_frames=7))
        list(VideoFile(data, num_frames=150))


def test_uneven_films_give_every_number_of_frames():
    starts_s = [0, 0.1, 0.2, 1, 1.1, 5, 5.1, 5.2, 5.3, 9]
    timeline = video.Timeline(np.array(starts_s), 9.1, 10 / 9.1)
    for count in range(1, 12):
        chosen = choose_indices(timeline, num_frames=count)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(count, 10)
        assert 0 <= chosen[0] <= chosen[-1] <= 9


def animation(count: int = 4) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (40, 30), (60 * index, 0, 0)) for index in range(count)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def test_damaged_frames_of_an_animation_are_told_as_such() -> None:
    data = animation()
    places = [place for place in range(20, len(data)) if data[place : place + 5] == b",\0\0\0\0"]
    assert len(places) == 4
    for place in places[1:]:
        cut = data[: place + 10]
        huge = data[: place + 5] + b"\xff\xff\xff\xff" + data[place + 9 :]
        for damaged in (cut, huge):
            with pytest.raises(ValueError, match=r"damaged or cut short|frames of 65535 x 65535"):
                list(VideoFile(damaged))


def test_frames_of_an_animation_have_a_limit_together() -> None:
    with use_policy(MediaPolicy(max_animation_pixels=3 * 40 * 30)):
        assert len(VideoFile(animation(3))) > 0
        with pytest.raises(MediaLimitError, match="more than 3 frames of 40 x 30") as caught:
            list(VideoFile(animation(4)))
    assert caught.value.limit == "max_animation_pixels"


def test_a_video_has_a_limit_of_seconds() -> None:
    with use_policy(MediaPolicy(max_duration_s=0.35)):
        assert len(VideoFile(animation(3))) > 0
        with pytest.raises(MediaLimitError, match=r"takes 0\.4 s; the limit is 0\.35 s"):
            list(VideoFile(animation(4)))


def test_formats_may_be_few_and_warnings_off() -> None:
    with use_policy(MediaPolicy(formats=["PNG"])), pytest.raises(ValueError, match="not an image"):
        load_image(animation())
    with use_policy(MediaPolicy(warns=False)):
        assert load_image(animation()).size == (40, 30)
