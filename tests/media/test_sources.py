"""Where a picture comes from: read again, named as typed, and nothing of it left out silently."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from minicpmv.cli.attachments import read_files
from minicpmv.media.image import load_image, to_rgb
from minicpmv.media.video import VideoFile

from ..helpers.pictures import PNG


def animation(format_name: str, count: int = 3) -> bytes:
    colours = ("red", "green", "blue")[:count]
    first, *others = (Image.new("RGB", (20, 20), colour) for colour in colours)
    file = io.BytesIO()
    first.save(file, format_name, save_all=True, append_images=others, duration=1000)
    return file.getvalue()


def test_an_open_file_stands_where_it_stood():
    file = io.BytesIO(b"head" + PNG)
    file.seek(4)
    assert load_image(file).tobytes() == load_image(file).tobytes()
    assert file.tell() == 4


def test_a_file_just_written_is_read_from_its_start():
    file = io.BytesIO()
    file.write(PNG)
    assert load_image(file).tobytes() == load_image(PNG).tobytes()


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/y.png", "s3://bucket/a//b.png"])
def test_an_address_of_another_kind_is_named_as_it_was_typed(address):
    with pytest.raises(ValueError, match="an address begins with http") as caught:
        load_image(address)
    assert address in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -3.0])
def test_a_picture_of_numbers_that_are_none_is_named(tmp_path, value):
    path = tmp_path / "heights.tiff"
    Image.fromarray(np.full((6, 6), value, np.float32)).save(path)
    with pytest.raises(ValueError, match=r"heights.tiff' has pixel values from"):
        to_rgb(load_image(path))


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG"])
def test_an_animation_as_a_picture_is_noticed(format_name):
    data = animation(format_name)
    with pytest.warns(UserWarning, match="3 frames, and only the first is shown"):
        shown = to_rgb(load_image(data))
    assert shown.getpixel((0, 0))[0] > 200
    load_image(animation(format_name, 1))  # and one frame says nothing


def test_pages_are_noticed_and_a_chosen_frame_is_not():
    with pytest.warns(UserWarning, match="3 pages, and only the first"):
        load_image(animation("TIFF"))
    chosen = Image.open(io.BytesIO(animation("GIF")))
    chosen.seek(2)
    assert to_rgb(load_image(chosen)).getpixel((0, 0)) == (0, 0, 255)


def test_the_command_line_shows_an_animation_whole(tmp_path):
    path = tmp_path / "three.gif"
    path.write_bytes(animation("GIF"))
    (shown,) = read_files([str(path)])
    assert isinstance(shown, VideoFile)
    assert len(shown) == 3


def test_base64_may_have_line_breaks():
    assert load_image(base64.encodebytes(PNG).decode()).tobytes() == load_image(PNG).tobytes()
