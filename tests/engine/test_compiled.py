"""The vision side with compiled kernels in place of PyTorch's functions."""

from typing import Any

import pytest
import torch

from minicpmv.engine import compiled, tower
from minicpmv.engine.compiled import CompiledFunctions
from minicpmv.engine.vision import VisionEncoder
from minicpmv.engine.widen import widen

from ..helpers.tiny import strips, tiny_model

SIZES = torch.tensor([[5, 4], [5, 4]])
PIXELS = strips([(5, 4), (5, 4)])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the name and dtype of every use of a kernel."""
    seen: list[str] = []
    for module, attribute in (
        (compiled, "dense_attention"),
        (compiled, "gelu_tanh"),
        (tower, "attention_of_tokens"),
        (tower, "gelu_tanh"),
    ):
        name = attribute.replace("attention_of_tokens", "dense_attention")
        kernel = getattr(module, attribute)

        def counted(
            x: torch.Tensor, *args: Any, name: str = name, kernel: Any = kernel, **kwargs: Any
        ) -> Any:
            seen.append(f"{name} {x.dtype}")
            return kernel(x, *args, **kwargs)

        monkeypatch.setattr(module, attribute, counted)
    return seen


@torch.inference_mode()
def test_features_stay_the_same(version: str, calls: list[str]) -> None:
    model = tiny_model(version)
    expected = model.get_image_features(PIXELS, SIZES).pooler_output
    assert not calls
    found = VisionEncoder(model).encode(PIXELS, SIZES)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert calls.count("dense_attention torch.float32") == 3, "two layers, and the resampler"


@torch.inference_mode()
def test_widened_products_meet_them(calls: list[str]) -> None:
    model = tiny_model("2.6").to(torch.bfloat16)
    expected = model.get_image_features(PIXELS, SIZES).pooler_output
    widen(model)
    found = VisionEncoder(model).encode(PIXELS, SIZES)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)
    assert calls.count("dense_attention torch.float32") == 3


def test_what_is_recorded_for_training_stays_as_it_was(calls: list[str]) -> None:
    model = tiny_model("2.6")
    with CompiledFunctions():
        model.get_image_features(PIXELS, SIZES).pooler_output.sum().backward()
    assert not calls


@torch.no_grad()
def test_other_arguments_go_on_to_torch(calls: list[str]) -> None:
    query = torch.randn(1, 2, 9, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    for options in ({"is_causal": True}, {"attn_mask": torch.rand(9, 9)}, {"enable_gqa": True}):
        expected = attend(query, query, query, **options)
        with CompiledFunctions():
            assert torch.equal(attend(query, query, query, **options), expected)
    with CompiledFunctions():
        torch.nn.functional.gelu(query)
    assert not calls
