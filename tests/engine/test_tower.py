"""The tower without calls of its modules gives what the modules give."""

from typing import Any

import pytest
import torch

from minicpmv.engine.tower import PlainTower
from minicpmv.engine.vision import VisionEncoder

from ..helpers.tiny import strips, tiny_model

SHAPES = [(5, 4), (4, 5), (2, 10)]
SIZES, PIXELS = torch.tensor(SHAPES), strips(SHAPES)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the patches per slice whenever modules are not called."""
    seen: list[int] = []
    encode = PlainTower.encode

    def counted(self: PlainTower, pixels: torch.Tensor, sizes: torch.Tensor, patches: int) -> Any:
        seen.append(patches)
        return encode(self, pixels, sizes, patches)

    monkeypatch.setattr(PlainTower, "encode", counted)
    return seen


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("release", ["2.5", "2.6"])
@torch.inference_mode()
def test_features_are_those_of_the_modules(
    release: str, dtype: torch.dtype, plain: list[int]
) -> None:
    model = tiny_model(release).to(dtype)
    expected = model.get_image_features(PIXELS, SIZES).pooler_output
    encoder = VisionEncoder(model)
    for _ in range(2):  # the second time with positions that are remembered
        found = encoder.encode(PIXELS, SIZES)
        torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert plain == [20, 20]


@torch.inference_mode()
def test_positions_are_those_of_the_sizes(plain: list[int]) -> None:
    """Sizes of as many patches, one after the other, and in another order."""
    model = tiny_model("2.6")
    encoder = VisionEncoder(model)
    for order in ([0, 1, 2], [2, 1, 0], [1], [2], [0, 0]):
        expected = model.get_image_features(PIXELS[order], SIZES[order]).pooler_output
        found = encoder.encode(PIXELS[order], SIZES[order])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(plain) == 5


@torch.inference_mode()
def test_weights_are_those_of_the_moment(plain: list[int]) -> None:
    model = tiny_model("2.6")
    encoder = VisionEncoder(model)
    before = encoder.encode(PIXELS, SIZES)
    layer = model.model.vision_tower.encoder.layers[0]
    layer.mlp.fc1.weight = torch.nn.Parameter(-layer.mlp.fc1.weight)
    model.model.resampler.proj.mul_(2)
    expected = model.get_image_features(PIXELS, SIZES).pooler_output
    found = encoder.encode(PIXELS, SIZES)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, before * 2, atol=1e-3)
    assert len(plain) == 2


def _with_hook(model: Any) -> None:
    model.model.vision_tower.encoder.layers[1].register_forward_hook(lambda *_: None)


def _with_other_linear(model: Any) -> None:
    attention = model.model.vision_tower.encoder.layers[0].self_attn

    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    old = attention.v_proj
    attention.v_proj = Doubled(old.in_features, old.out_features)
    attention.v_proj.load_state_dict(old.state_dict())


def _in_training(model: Any) -> None:
    model.train()


def _eager(model: Any) -> None:
    model.model.vision_tower.config._attn_implementation = "eager"


@pytest.mark.parametrize("change", [_with_hook, _with_other_linear, _in_training, _eager])
@torch.inference_mode()
def test_modules_that_do_more_are_called(change: Any, plain: list[int]) -> None:
    model = tiny_model("2.6")
    encoder = VisionEncoder(model)
    encoder.encode(PIXELS, SIZES)
    change(model)
    expected = model.get_image_features(PIXELS, SIZES).pooler_output
    found = encoder.encode(PIXELS, SIZES)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(plain) == 1


@torch.inference_mode()
def test_padding_that_takes_part_in_attention_is_left_to_the_modules(plain: list[int]) -> None:
    """Release 2.5, where a longer slice is in the prompt."""
    model = tiny_model("2.5")
    VisionEncoder(model).encode(PIXELS, SIZES, longest=24)
    assert not plain
