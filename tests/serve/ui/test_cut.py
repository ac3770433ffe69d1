"""The cut that the page draws is the one of the model, and its tokens are those of the prompt."""

import io

import pytest
from PIL import Image

from minicpmv.processing.cost import CutSettings, plan_cost
from minicpmv.serve.ui.client import Model
from minicpmv.serve.ui.cut import cost_of, panel, settings_of
from minicpmv.serve.ui.uploads import Attachment

from ...helpers.openai_server import PICTURES
from ...helpers.uploads import png

MODEL = Model("tiny", 8192, PICTURES)


def test_settings_that_a_server_tells():
    settings = settings_of(PICTURES | {"a_later_field": 3})
    assert settings == CutSettings(**PICTURES)
    assert settings_of(None) is None
    assert settings_of({"patch_size": 14}) is None


def test_the_cost_is_that_of_the_command_line():
    settings = CutSettings(**PICTURES)
    assert cost_of(1000, 1500, settings, 0) == plan_cost(1000, 1500, 9, settings)
    assert cost_of(1000, 1500, settings, 2).plan.num_slices <= 3
    square = CutSettings(patch_size=14, num_queries=64, image_size=448)
    assert cost_of(1000, 1500, square, 4).num_tokens == cost_of(10, 10, square, 0).num_tokens


def test_the_panel_draws_the_grid_and_adds_up(uploads):
    files = [uploads.keep(png(1344, 896), "big.png"), uploads.keep(png(100, 80), "small.png")]
    html = panel(files, uploads, MODEL, 0, "en")
    settings = CutSettings(**PICTURES)
    big, small = plan_cost(896, 1344, 9, settings), plan_cost(80, 100, 9, settings)
    rows, cols = big.plan.grid
    assert f'style="--rows:{rows};--cols:{cols}"' in html
    assert html.count('class="grid"') == 1
    assert html.count("<i>") == rows * cols
    total = big.num_tokens + small.num_tokens
    assert f"{total} visual tokens" in html
    assert f"{100 * total / 8192:.0f} %" in html
    assert 'class="grid"' not in panel(files, uploads, MODEL, 1, "en")


def test_a_picture_is_turned_as_its_camera_says(uploads):
    data = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1344, 448)).save(data, "JPEG", exif=exif)
    assert "448 x 1344 pixels" in panel(
        [uploads.keep(data.getvalue(), "a.jpg")], uploads, None, 0, "en"
    )


def test_without_settings_and_pictures(uploads):
    picture = uploads.keep(png(), "a<b>.png")
    html = panel([picture], uploads, Model("other"), 0, "en")
    assert "does not say how it cuts" in html
    assert "a&lt;b&gt;.png" in html
    assert "Attach a picture" in panel([], uploads, MODEL, 0, "en")
    video = Attachment("/x/a.mp4", "a.mp4", "video")
    assert "Attach a picture" in panel([video], uploads, MODEL, 0, "en")


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_a_picture_that_cannot_be_opened(data, uploads):
    broken = uploads.keep(data, "broken.png")
    html = panel([broken, uploads.keep(png(), "fine.png")], uploads, MODEL, 0, "en")
    assert "broken.png cannot be shown" in html
    assert "<b>fine.png</b>" in html
