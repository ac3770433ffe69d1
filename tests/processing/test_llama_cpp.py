"""How llama.cpp (b11434) cuts pictures: the sizes that it was seen to make."""

import json
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.cli import main
from minicpmv.processing.llama_cpp import differences, plan_like_llama_cpp
from minicpmv.processing.slicing import SlicePlan, ensure_divide, plan_slices


def both(height: int, width: int, side: int = 448) -> tuple[SlicePlan, SlicePlan, bool]:
    sizes = {"scale_resolution": side, "patch_size": 14}
    theirs = plan_like_llama_cpp(height, width, **sizes)
    return plan_slices(height, width, max_slices=9, **sizes), theirs.plan, theirs.has_bars


@pytest.mark.parametrize(("height", "width"), [(448, 448), (900, 900), (480, 640), (1344, 1344)])
def test_pictures_that_both_cut_alike(height: int, width: int) -> None:
    ours, theirs, has_bars = both(height, width)
    assert ours == theirs
    assert not has_bars


def test_a_small_picture_becomes_a_square() -> None:
    ours, theirs, _ = both(200, 300)
    assert ours.overview == (364, 546)
    assert theirs == SlicePlan((448, 448))


def test_a_side_above_the_resolution_is_cut_at_once() -> None:
    ours, theirs, _ = both(200, 600)
    assert ours == SlicePlan((252, 770))
    assert theirs.overview == (196, 602)
    assert theirs.grid == (1, 2)


def test_halves_of_a_patch_go_up() -> None:
    cut = plan_like_llama_cpp(343, 449, scale_resolution=448, patch_size=14)
    assert cut.plan.overview == (350, 448)
    assert ensure_divide(343, 14) == 336


def test_a_tie_of_float32() -> None:
    ours, theirs, _ = both(1029, 1029)
    assert {ours.grid, theirs.grid} == {(2, 3), (3, 2)}


def test_bars() -> None:
    cut = plan_like_llama_cpp(300, 1000, scale_resolution=448, patch_size=14)
    assert cut.plan.refined == (420, 1428)
    assert cut.has_bars
    assert cut.picture == (420, 1400)


def test_differences_are_told() -> None:
    sizes = {"scale_resolution": 448, "patch_size": 14}
    ours = plan_slices(200, 600, max_slices=9, **sizes)
    lines = differences(ours, plan_like_llama_cpp(200, 600, **sizes))
    assert lines[0] == "the grid is 1 x 2, the model's is none"
    assert lines[1] == "the overview has 196 x 602 pixels, the model's 252 x 770"


def test_command_shows_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "picture.png"
    Image.new("RGB", (150, 100)).save(file)
    assert main(["slice", str(file), "--like", "llama.cpp"]) == 0
    printed = capsys.readouterr().out
    assert "as llama.cpp cuts it:" in printed
    assert "distorted to 224 x 224 pixels" in printed
    assert "<image_id>0</image_id>, is not written" in printed
    assert main(["slice", str(file), "--like", "llama.cpp", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["llama.cpp"]["overview"] == [224, 224]
    assert report["num_tokens"] == report["llama.cpp"]["num_tokens"] + 3
