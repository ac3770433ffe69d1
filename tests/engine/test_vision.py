"""Features of a picture are the same in pieces, and no piece is padded."""

from typing import Any

import pytest
import torch

from minicpmv.engine.vision import VisionEncoder

from ..helpers.tiny import strips, tiny_model

SHAPES = [(3, 4), (2, 5), (5, 2), (4, 5), (4, 5), (4, 5)]
SIZES = torch.tensor(SHAPES)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Grows by (slices, patches per slice) of every call of the model."""
    monkeypatch.setattr("minicpmv.engine.vision._PATCHES_ON_CPU", 45)
    monkeypatch.setattr("minicpmv.engine.vision._LARGE_TOWER", 0)
    return []


def encoder_of(model: Any, passes: list[tuple[int, int]]) -> VisionEncoder:
    encode = model.get_image_features

    def counted(pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        patch = model.config.vision_config.patch_size
        passes.append((len(pixel_values), pixel_values.shape[-1] // patch))
        return encode(pixel_values, *args, **kwargs)

    model.get_image_features = counted
    return VisionEncoder(model)


@torch.inference_mode()
def test_pieces_are_the_whole(version: str, passes: list[tuple[int, int]]) -> None:
    model, pixels = tiny_model(version), strips(SHAPES)
    whole = model.get_image_features(pixels, SIZES).pooler_output
    found = encoder_of(model, passes).encode(pixels, SIZES)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    assert passes == [(1, 12), (2, 10), (2, 20), (1, 20)]


@torch.inference_mode()
def test_a_part_is_encoded_as_beside_the_rest(version: str) -> None:
    """Where padding takes part in attention, it is told how long the longest slice is."""
    model, pixels = tiny_model(version), strips(SHAPES)
    whole = model.get_image_features(pixels, SIZES).pooler_output
    own = pixels[1:3, ..., : 4 * 10]  # patches of 4 pixels
    found = VisionEncoder(model).encode(own, SIZES[1:3], longest=20)
    torch.testing.assert_close(found, whole[1:3], atol=1e-5, rtol=1e-5)


def test_pieces_are_computed_when_asked_for(passes: list[tuple[int, int]]) -> None:
    encoder = encoder_of(tiny_model("2.6"), passes)
    pieces = encoder.pieces(strips(SHAPES), SIZES)
    assert not passes
    next(pieces)
    assert len(passes) == 1
    assert [len(piece) for piece in pieces] == [2, 2, 1]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(32, 32)] * 4, 1),
        ([(40, 40)], 1),
        ([(16, 16)] * 9, 4),
        ([(16, 16), (15, 17), (16, 16)], 1),
        ([(12, 20), (20, 12), (15, 16), (15, 17)], 3),
    ],
    ids=str,
)
def test_slices_of_a_piece(
    sizes: list[tuple[int, int]], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About one slice of 448 x 448 of a large tower, and of equally many patches."""
    monkeypatch.setattr("minicpmv.engine.vision._LARGE_TOWER", 1)
    assert VisionEncoder(tiny_model("2.6")).piece_of(torch.tensor(sizes)) == expected


def test_a_small_tower_takes_a_whole_picture_at_a_time() -> None:
    encoder = VisionEncoder(tiny_model("2.6"))
    assert encoder.piece_of(torch.tensor([(32, 32)] * 12)) == 10
    assert encoder.piece_of(torch.tensor([(16, 16)] * 9)) == 9


def test_impossible_sizes_are_named(version: str) -> None:
    encoder = VisionEncoder(tiny_model(version))
    with pytest.raises(ValueError, match="at least one patch"):
        encoder.encode(strips([(3, 4)]), torch.tensor([[0, 4]]))
    with pytest.raises(ValueError, match="7 x 4 = 28 patches, and pixel_values holds 12"):
        encoder.encode(strips([(3, 4)]), torch.tensor([[7, 4]]))
