"""Where a picture comes from: read again, named as typed, and nothing of it left out silently."""

import base64
import copy
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from minicpmv.cli.attachments import read_files, read_video
from minicpmv.media.image import image_from_array, load_image, to_rgb
from minicpmv.media.video import VideoFile
from minicpmv.processing.batching import sampled_video

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


class Pipe(io.BytesIO):
    """Bytes that come once."""

    def seekable(self) -> bool:
        return False


def test_what_was_read_and_cannot_be_rewound_says_so():
    pipe = Pipe(PNG)
    load_image(pipe)
    with pytest.raises(ValueError, match="cannot be rewound: it was read before"):
        load_image(pipe)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.png"
    with path.open("wb") as file, pytest.raises(ValueError, match=r"a.png' is open for writing"):
        load_image(file)
    with pytest.raises(ValueError, match=r"a.png' is closed"):
        load_image(file)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), complex), "values of the type complex128"),
        (np.full((4, 4), None), "values of the type object"),
        (torch.zeros(3, 4, 4, device="meta"), "the device meta"),
    ],
)
def test_an_array_that_is_no_picture_is_named(array, message):
    with pytest.raises(ValueError, match=message):
        image_from_array(array)


def test_pages_are_noticed_once():
    with pytest.warns(UserWarning, match="3 pages") as notices:
        load_image(load_image(animation("TIFF")))
    assert len(notices) == 1


def test_a_frame_that_is_none_is_not_left_out():
    with pytest.raises(ValueError, match="the frame None"):
        sampled_video([Image.new("RGB", (4, 4)), None])


def test_no_name_is_no_folder(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path of an image is empty"):
        read_files([""])
    with pytest.raises(ValueError, match="path of a video is empty"):
        read_video([""])


@pytest.mark.parametrize("format_name", ["PNG", "GIF", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda image: pickle.loads(pickle.dumps(image))])
def test_a_copy_of_an_opened_picture_is_a_picture(format_name, copied):
    file = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(file, format_name)
    opened = Image.open(file)
    found = load_image(copied(opened))
    assert found.size == (20, 10)
    assert found.convert("RGB").tobytes() == opened.convert("RGB").tobytes()
