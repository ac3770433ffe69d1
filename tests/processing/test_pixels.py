"""Resized pixels are those of the Pillow that the model cards name, under every Pillow."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpmv.processing import MiniCPMVImageProcessorPil
from minicpmv.processing.pixels import (
    cut,
    fitted,
    normalise,
    pad_strips,
    patchify,
    resize,
    strips_of,
    unpadded,
    value_table,
)
from minicpmv.processing.slicing import SlicePlan

RECORDED = Path(__file__).parents[1] / "golden" / "resize" / "manifest.json"
ROWS = json.loads(RECORDED.read_text(encoding="utf-8"))["rows"]


def noise(seed: int, width: int, height: int, channels: int = 3) -> Image.Image:
    shape = (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def one_pass_each(image: Image.Image, *sizes: tuple[int, int]) -> Image.Image:
    for size in sizes:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return image


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["seed"]))
def test_pixels_are_those_of_pillow_10_1(row):
    image = noise(row["seed"], row["width"], row["height"])
    assert digest(resize(image, (row["new_height"], row["new_width"]))) == row["sha256"]


def test_the_recorded_pictures_tell_the_two_orders_apart():
    differ = 0
    for row in ROWS[:10]:
        width, height = row["new_width"], row["new_height"]
        image = noise(row["seed"], row["width"], row["height"])
        other = one_pass_each(image, (image.width, height), (width, height))
        differ += digest(other) != row["sha256"]
    assert differ >= 5


def test_overview_and_cells_have_these_pixels():
    image = noise(0, 60, 140)
    plan = SlicePlan((70, 28), refined=(112, 42), grid=(2, 1), cell=(56, 42))
    overview, *cells = cut(image, plan)
    assert overview == one_pass_each(image, (28, 140), (28, 70))
    refined = one_pass_each(image, (42, 140), (42, 112))
    assert cells == [refined.crop((0, 0, 42, 56)), refined.crop((0, 56, 42, 112))]


@pytest.mark.parametrize("version", ["1.0", "omnilmm-12b"])
def test_the_square_of_releases_that_never_cut_has_these_pixels(version):
    image = noise(1, 90, 200)
    settings = {"version": version, "image_size": 56, "do_normalize": False, "do_rescale": False}
    strip = MiniCPMVImageProcessorPil(**settings)(image)["pixel_values"][0]
    square = strip.reshape(3, 14, 4, 4, 14).transpose(2, 1, 3, 4, 0)  # row, y, column, x, colour
    expected = one_pass_each(image, (56, 200), (56, 56))
    assert np.array_equal(square.reshape(56, 56, 3), np.asarray(expected))


def test_transparent_pixels_do_not_bleed_into_their_neighbours():
    image = Image.new("RGBA", (40, 80), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 80))
    small = np.asarray(resize(image, (20, 10)))
    visible = small[..., 3] > 0
    assert visible.any()
    assert (small[visible][:, :3] == (0, 0, 255)).all()
    grey = noise(2, 40, 80, channels=2)
    premultiplied = one_pass_each(grey.convert("La"), (10, 80), (10, 20))
    assert resize(grey, (20, 10)) == premultiplied.convert("LA")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_strips_are_what_the_steps_make_one_after_the_other(channels):
    patch = 7
    sizes = [(21, 14), (14, 14), (14, 14), (28, 21)]
    # The last two are smaller, and larger, than their slice: filled, and cut.
    shapes = [(21, 14), (14, 14), (10, 12), (30, 25)]
    arrays = [
        np.asarray(noise(i, w, h, channels=4))[..., :channels] for i, (h, w) in enumerate(shapes)
    ]
    pieces = [Image.fromarray(a[..., 0] if channels == 1 else a) for a in arrays]
    table = value_table(channels, 1 / 255, 0.47, 0.29)
    strips = [
        patchify(fitted(normalise(piece, table), size), patch)
        for piece, size in zip(pieces, sizes, strict=True)
    ]
    found = strips_of(pieces, sizes, patch, table)
    assert found.dtype == np.float32
    assert np.array_equal(found, pad_strips(strips))
    for strip, own in zip(unpadded(found, [(3, 2), (2, 2), (2, 2), (4, 3)]), strips, strict=True):
        assert np.array_equal(strip, own)
