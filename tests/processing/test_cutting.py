"""Pictures of one prompt that are cut under limits of their own."""

import pytest
import torch

from minicpmv.releases import RELEASES

from ..helpers.pictures import picture
from ..helpers.processors import golden_processor, inputs_of, user


def block(seed: int, **fields):
    return {"type": "image", "image": picture(900, 1400, seed), **fields}


def slices(version: str, *content, **kwargs) -> list[int]:
    found = inputs_of(
        golden_processor(version), user(*content, "?"), return_pixel_values=False, **kwargs
    )
    return found["slices_per_image"].tolist()


def test_each_picture_has_its_own_limit() -> None:
    whole = slices("2.6", block(0))[0]
    assert whole > 3
    assert slices("2.6", block(0, max_slice_nums=1), block(1)) == [1, whole]
    assert slices("2.6", block(0), block(1, max_slice_nums=2)) == [whole, 3]
    assert slices("2.6", block(0, max_slice_nums=2), block(1), max_slice_nums=1) == [3, 1]


def test_a_limited_picture_is_cut_as_it_is_under_the_limit_of_the_call() -> None:
    processor = golden_processor("2.6")
    own = inputs_of(processor, user(block(0, max_slice_nums=2), "?"))
    call = inputs_of(processor, user(block(0), "?"), max_slice_nums=2)
    assert own.keys() == call.keys()
    for name in own:
        torch.testing.assert_close(own[name], call[name], rtol=0, atol=0)


def test_a_release_that_never_cuts_has_one_slice_in_any_case() -> None:
    square = next(name for name, row in RELEASES.items() if row.slicing == "square")
    assert slices(square, block(0, max_slice_nums=1)) == [1]
    with pytest.raises(ValueError, match="max_slice_nums has no effect"):
        slices(square, block(0, max_slice_nums=2))


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_a_limit_that_is_no_number_of_slices_is_named(value) -> None:
    with pytest.raises(ValueError, match=r"max_slice_nums .*; it must be a whole number"):
        golden_processor("2.6").question(user(block(0, max_slice_nums=value), "?"))


def test_a_limit_without_a_picture_is_named() -> None:
    with pytest.raises(ValueError, match="max_slice_nums, but without an image"):
        golden_processor("2.6").question(user({"type": "image", "max_slice_nums": 2}, "?"))


@pytest.mark.parametrize("own", [{}, {"max_slice_nums": 2}, {"max_slice_nums": 1}])
def test_pixels_of_a_block_are_those_of_a_prompt_that_shows_it(version: str, own) -> None:
    processor = golden_processor(version)
    if RELEASES[version].slicing == "square":
        own = {}
    video = {"type": "video", "video": [picture(120, 90, 1), picture(90, 120, 2)]}
    for shown in (block(0), block(0, **own), video):
        kwargs = own if shown is video else {}
        prompt = inputs_of(processor, user(shown, "?"), **kwargs)
        alone = processor.pixels_of(shown, **kwargs)
        assert alone.keys() == {"pixel_values", "target_sizes"}
        for name in alone:
            torch.testing.assert_close(alone[name], prompt[name], rtol=0, atol=0)


def test_pictures_together_have_the_pixels_that_they_have_alone() -> None:
    processor = golden_processor("2.6")
    small = {"type": "image", "image": picture(70, 300, 3)}
    together = inputs_of(processor, user(block(0), small, "?"), do_pad=False)["pixel_values"]
    alone = [
        strip
        for each in (block(0), small)
        for strip in inputs_of(processor, user(each, "?"), do_pad=False)["pixel_values"]
    ]
    assert len(together) == len(alone)
    assert all(map(torch.equal, together, alone))
    assert all(strip.is_contiguous() for strip in together)
    padded = inputs_of(processor, user(block(0), small, "?"))["pixel_values"]
    for row, strip in zip(padded, together, strict=True):
        length = strip.shape[-1]
        assert torch.equal(row[..., :length], strip)
        assert not row[..., length:].any()
