"""`minicpmv slice`: the numbers are those of `processing.slicing`; here is how they are shown."""

import json

import pytest
from PIL import Image
from tokenizers import Tokenizer

from minicpmv.processing.cost import CutSettings
from minicpmv.processing.placeholders import image_placeholder

from ..helpers.golden import GOLDEN

RELEASED = {
    "max_slice_nums": 9,
    "scale_resolution": 448,
    "patch_size": 14,
    "image_feature_size": 64,
    "use_image_id": True,
    "version": 2.6,
}


@pytest.fixture
def model(tmp_path):
    """A model folder with nothing but the processor's settings of 2.6."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "preprocessor_config.json").write_text(json.dumps(RELEASED))
    return folder


@pytest.fixture
def wide(tmp_path):
    """A picture of 600 x 1400 pixels (height x width); 2.6 cuts it into 2 x 3 cells."""
    path = tmp_path / "wide.png"
    Image.new("RGB", (1400, 600), "olive").save(path)
    return path


def test_table_shows_grid_sizes_and_tokens(run, model, wide):
    code, out, err = run("slice", wide, "-m", model)
    assert (code, err) == (0, "")
    assert (
        out
        == f"""\
{wide}: 600 x 1400 pixels (height x width)
{model}: an overview of about 448 x 448 pixels, and at most 9 cells of about that size

                   slices     pixels         patches        tokens
overview                1  294 x 686  21 x 49 = 1029   1 x 64 = 64
grid of 2 x 3           6  364 x 560  26 x 40 = 1040  6 x 64 = 384
tags and newlines                                               18
total                   7                                      466

+------+------+------+
|  1   |  2   |  3   |
+------+------+------+
|  4   |  5   |  6   |
+------+------+------+
"""
    )


@pytest.mark.parametrize("release", ["minicpm-v-2_6", "minicpm-llama3-v-2_5"])
def test_tokens_are_those_of_the_tokenizer(run, wide, release):
    checkpoint = GOLDEN / release / "checkpoint"
    settings = CutSettings.read(str(checkpoint), None)
    placeholder = image_placeholder(
        (2, 3),
        settings.num_queries,
        tag_every_slice=settings.tag_every_slice,
        image_id=0 if settings.use_image_id else None,
    )
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(placeholder, add_special_tokens=False).ids
    report = json.loads(run("slice", wide, "-m", checkpoint, "--json")[1])
    assert report["num_tokens"] == len(ids)


def test_json_agrees_with_the_table(run, model, wide):
    code, out, _ = run("slice", wide, "-m", model, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["size"] == [600, 1400]
    assert (
        report["num_slices"] == len(report["slices"]) == 1 + report["grid"][0] * report["grid"][1]
    )
    assert report["num_visual_tokens"] == 64 * report["num_slices"]
    assert report["num_tokens"] == report["num_visual_tokens"] + report["num_tag_tokens"]


def test_max_slice_nums_limits_the_cut(run, model, wide):
    report = json.loads(run("slice", wide, "-m", model, "--json", "--max-slice-nums", 2)[1])
    assert report["grid"] == [1, 2]
    report = json.loads(run("slice", wide, "-m", model, "--json", "--max-slice-nums", 1)[1])
    assert report["grid"] is None
    assert report["num_slices"] == 1


def test_drawing_shows_every_slice_in_true_size(run, model, wide, tmp_path):
    out = tmp_path / "cut.png"
    assert run("slice", wide, "-m", model, "--out", out)[0] == 0
    report = json.loads(run("slice", wide, "-m", model, "--json")[1])
    with Image.open(out) as drawing:
        painted = sum(pixel == (128, 128, 0) for pixel in drawing.get_flattened_data())
    area = sum(height * width for height, width in (s["size"] for s in report["slices"]))
    assert area * 0.97 < painted <= area, "but for the numbers in the corners"


def test_a_small_picture_is_not_cut(run, model, tmp_path):
    path = tmp_path / "small.png"
    Image.new("RGB", (40, 30)).save(path)
    code, out, _ = run("slice", path, "-m", model)
    assert code == 0
    assert "grid" not in out
    assert "tags and newlines" in out


def test_a_model_without_slicing_takes_the_picture_as_it_is(run, model, wide):
    settings = model / "preprocessor_config.json"
    settings.write_text(json.dumps(RELEASED | {"slice_mode": False}))
    report = json.loads(run("slice", wide, "-m", model, "--json")[1])
    assert report["grid"] is None
    assert report["overview"] == [588, 1400], "less the rows that fill no patch"


def test_errors_name_what_is_wrong(run, model, wide, tmp_path):
    for arguments, message in [
        (["nowhere.png", "-m", model], "nowhere.png"),
        ([wide, "-m", "nanoo"], "Model 'nanoo' is not known"),
        ([wide, "-m", tmp_path], "has no preprocessor_config.json"),
        ([tmp_path, "-m", model], "is a folder; name a picture"),
    ]:
        code, out, err = run("slice", *arguments)
        assert (code, out) == (1, "")
        assert message in err
        assert err.count("\n") == 1
    code, _, err = run("slice", wide, "-m", model, "--revision", "main")
    assert code == 2
    assert "--revision 'main' has no effect" in err
    (model / "preprocessor_config.json").write_text('{"version": 2.6}')
    assert "lacks max_slice_nums, scale_resolution" in run("slice", wide, "-m", model)[2]


@pytest.mark.parametrize(
    ("out", "message"),
    [("scene.png", "is the picture itself"), ("cut.txt", "does not end in a picture format")],
)
def test_out_is_checked_before_anything_is_written(run, tmp_path, out, message):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "scene.png")
    before = (tmp_path / "scene.png").read_bytes()
    code, _, err = run("slice", str(tmp_path / "scene.png"), "--out", str(tmp_path / out))
    assert (code, message in err) == (2, True)
    assert (tmp_path / "scene.png").read_bytes() == before


@pytest.mark.parametrize("release", ["minicpm-v-1_0", "omnilmm-12b"])
def test_releases_that_never_cut_show_one_square(run, wide, tmp_path, release):
    checkpoint = GOLDEN / release / "checkpoint"
    code, out, err = run("slice", wide, "-m", checkpoint, "--out", tmp_path / "cut.png")
    assert (code, err) == (0, "")
    assert f"{checkpoint}: squeezed into 448 x 448 pixels, never cut\n" in out
    report = json.loads(run("slice", wide, "-m", checkpoint, "--json")[1])
    assert (report["overview"], report["num_slices"], report["num_tokens"]) == ([448, 448], 1, 66)
    with Image.open(tmp_path / "cut.png") as sheet:
        assert sheet.size == (448 + 28, 448 + 28)
    message = run("slice", wide, "-m", checkpoint, "--max-slice-nums", 2)[2]
    assert "--max-slice-nums has no effect: the model squeezes every picture" in message


def test_the_settings_of_2_0_stand_in_config_json(run, wide):
    report = json.loads(
        run("slice", wide, "-m", GOLDEN / "minicpm-v-2" / "checkpoint", "--json")[1]
    )
    assert (report["grid"], report["num_visual_tokens"]) == ([2, 3], 448)


def test_a_text_model_has_nothing_to_cut(run, wide):
    code, out, err = run("slice", wide, "-m", GOLDEN / "minicpm-2b" / "ckpt")
    assert (code, out) == (1, "")
    assert "reads text only, so there is nothing to cut" in err
