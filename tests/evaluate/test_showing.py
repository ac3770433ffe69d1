"""Pictures and videos as a profile shows them: enlarged, chosen, read out, always the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpmv.evaluate.asking import Asking
from minicpmv.evaluate.frames import (
    Subtitle,
    frames_of,
    interior_points,
    read_subtitles,
    spoken_at,
)
from minicpmv.evaluate.items import Item
from minicpmv.evaluate.page import Page, Profile
from minicpmv.evaluate.shots import drawn_shots, shots_for
from minicpmv.evaluate.upsizing import AREA, upsized
from minicpmv.loader import load

from ..helpers.clips import numbers_of, write_clip

SRT = """\
1
00:00:00,000 --> 00:00:01,000
<i>Hello</i>
there.

2
00:00:01,200 --> 00:00:01,400
Not shown.

3
00:00:02,000 --> 00:00:02,900
{\\an8}Goodbye.
"""


def asking(**fields):
    page = Page(name="p", title="P", profiles={"default": Profile(**fields)}, metric="exact-match")
    return Asking(page, "default")


def content(found):
    return found[-1]["content"]


# Enlarged pictures


def test_a_small_picture_is_enlarged_by_a_seed_of_its_own():
    image = Image.new("RGB", (300, 200))
    sizes = {upsized(image, "page", item).size for item in "abcdef"}
    assert len(sizes) > 1
    for width, height in sizes:
        assert width >= 300
        assert width * height <= AREA
        assert height == int(width / 300 * 200)
    assert upsized(image, "page", "a").size == upsized(image, "page", "a").size
    widths = [upsized(image, "page", str(n)).width for n in range(300)]
    most = int(300 * (AREA / 60000) ** 0.5)
    assert (min(widths), max(widths)) < (400, most)
    assert max(widths) > most - 100


def test_a_large_picture_stays_as_it_is():
    image = Image.new("RGB", (1344, 1344))
    assert upsized(image, "page", "a") is image


def test_only_a_profile_that_says_so_enlarges():
    item = Item("1", "What?", (Image.new("RGB", (30, 20)),))
    shown = content(asking(upsize=True).messages(item))[0]["image"]
    assert shown.width > 30
    assert content(asking().messages(item))[0]["image"].width == 30


# Frames


@pytest.mark.parametrize(
    ("count", "number", "expected"),
    [(90, 8, [10, 20, 30, 40, 50, 60, 70, 80]), (5, 2, [1, 3]), (3, 8, [0, 1, 2]), (10, 1, [5])],
)
def test_frames_are_interior_points_at_equal_steps(count, number, expected):
    assert interior_points(count, number) == expected


def test_frames_of_a_file_by_number_and_by_rate(tmp_path):
    video = write_clip(tmp_path / "a.mp4", 30, 10)
    by_number = frames_of(video, num_frames=2, fps=None)
    assert numbers_of(by_number.images) == [10, 20]
    assert by_number.times_s == pytest.approx((1.0, 2.0))
    by_rate = frames_of(video, num_frames=None, fps=2)
    assert numbers_of(by_rate.images) == [0, 5, 10, 15, 20, 25]
    assert numbers_of(frames_of(video, num_frames=3, fps=2).images) == [5, 15, 25]


def test_frames_of_a_folder_are_in_the_order_of_their_names(tmp_path):
    for n in range(5):
        Image.new("RGB", (10, 10), (50 * n, 0, 0)).save(tmp_path / f"{n}.png")
    images = frames_of(tmp_path, num_frames=2, fps=None).images
    assert [np.asarray(image)[0, 0, 0] for image in images] == [50, 150]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is a folder without pictures"):
        frames_of(tmp_path / "empty", num_frames=2, fps=None)


def test_only_subtitles_of_shown_frames_are_listed_each_once(tmp_path):
    (tmp_path / "a.srt").write_text(SRT, encoding="utf-8")
    lines = read_subtitles(tmp_path / "a.srt")
    assert lines == [
        Subtitle(0.0, 1.0, "Hello there."),
        Subtitle(1.2, 1.4, "Not shown."),
        Subtitle(2.0, 2.9, "Goodbye."),
    ]
    assert spoken_at(lines, [0.1, 0.9, 1.1, 2.5]) == "Hello there.\nGoodbye."
    assert spoken_at(lines, [1.1]) == ""
    (tmp_path / "b.srt").write_text("no times\n")
    with pytest.raises(ValueError, match="has no lines with times"):
        read_subtitles(tmp_path / "b.srt")


@pytest.mark.parametrize("folder", ["videos", "subtitle"])
def test_a_video_is_asked_with_its_frames_and_what_is_said_meanwhile(tmp_path, folder):
    for name in ("videos", "subtitle"):
        (tmp_path / name).mkdir()
    video = write_clip(tmp_path / "videos" / "a.mp4", 30, 10)
    (tmp_path / folder / "a.srt").write_text(SRT, encoding="utf-8")
    item = Item("1", "Who?", fields={"subtitles": "a.srt"}, video=video)
    found = asking(prompt="{pictures}{subtitles}{question}", subtitles="[{subtitles}]\n", fps=1.0)
    block, text = content(found.messages(item))
    assert numbers_of(block["video"]) == [0, 10, 20]
    assert text["text"] == "[Hello there.\nGoodbye.]\nWho?"
    block, text = content(found.messages(Item("1", "Who?", video=write_copy(video, tmp_path))))
    assert text["text"] == "Who?"


def write_copy(video: Path, folder: Path) -> Path:
    """The video under a name that has no subtitles."""
    copy = folder / "other.mp4"
    copy.write_bytes(video.read_bytes())
    return copy


def test_the_model_answers_about_several_pictures_and_a_video(tmp_path):
    video = write_clip(tmp_path / "a.mp4", 30, 10)
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (80, 50), "blue")
    many = asking(prompt="{pictures}{question}", max_slice_nums=1, num_frames=2)
    with load("nano", "cpu", "float32") as chat:
        for item, blocks in (
            (Item("1", "Same?", (red, blue)), 3),
            (Item("2", "What?", video=video), 2),
            (Item("3", "Why?"), 1),
        ):
            messages = many.messages(item)
            assert len(messages[-1]["content"]) == blocks
            options = {**many.options(item), "max_new_tokens": 2}
            assert chat.ask(messages, **options).num_output_tokens > 0


# Solved examples


def items(number):
    return [Item(f"s{n}", f"Question {n}?", (), (str(n),)) for n in range(number)]


def test_examples_are_drawn_by_their_ids_whatever_the_order():
    drawn = drawn_shots(items(50), 4, "seed")
    assert drawn_shots(items(50)[::-1], 4, "seed") == drawn
    assert drawn_shots(items(50), 4, "other") != drawn
    assert drawn_shots(items(50), 0, "seed") == ()
    assert len(shots_for(Item("q", "New?"), drawn, 4)) == 4


def test_an_item_is_never_its_own_example():
    drawn = drawn_shots(items(12), 4, "seed")
    for shot in drawn:
        twin = Item("copy", shot.question, shot.pictures)
        assert shot not in shots_for(shot, drawn, 4)
        assert shot not in shots_for(twin, drawn, 4)
        assert len(shots_for(shot, drawn, 4)) == 4


def test_examples_need_answers():
    with pytest.raises(ValueError, match="has 1 examples with an answer; 2 are to be shown"):
        drawn_shots([Item("a", "?"), Item("b", "?", (), ("x",))], 2, "seed")
