"""Hashes of pictures: of what is seen, and of images that do not change once."""

import gc

from PIL import Image

from minicpmv.engine import pictures
from minicpmv.engine.pictures import digest, keep_digest, with_pictures_read


def block(image):
    return {"type": "image", "image": image}


def test_a_digest_is_that_of_the_pixels():
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    assert digest(block(red)) == digest(block(red.copy()))
    assert digest(block(red)) != digest(block(blue))
    assert digest(block(red)) != digest(block(Image.new("RGB", (2, 8), "red")))
    assert digest({"type": "video", "video": [red, blue]}) != digest(
        {"type": "video", "video": [blue, red]}
    )


def test_a_kept_digest_is_the_same_and_is_not_made_again(monkeypatch):
    image = Image.new("RGB", (4, 4), "red")
    plain = digest(block(image))
    keep_digest(image)
    assert digest(block(image)) == plain
    monkeypatch.setattr(pictures, "to_rgb", None)  # would be called to look at the pixels
    (message,) = with_pictures_read([{"role": "user", "content": [block(image)]}], copy=False)
    assert digest(message["content"][0]) == plain


def test_it_goes_with_its_image():
    before = len(pictures._KEPT)
    image = Image.new("RGB", (4, 4), "red")
    keep_digest(image)
    keep_digest(image)
    assert len(pictures._KEPT) == before + 1
    del image
    gc.collect()
    assert len(pictures._KEPT) == before
