"""The loss of each token, for who weighs or sums them otherwise than the mean."""

import pytest
import torch

from minicpmv.model.configuration_minicpm import MiniCPMConfig
from minicpmv.model.minicpm import MiniCPMForCausalLM

from ..helpers.tiny import tiny_model


@pytest.mark.parametrize("version", ["2.0", "2.6"])
def test_losses_of_tokens_sum_to_the_loss(version: str) -> None:
    model = tiny_model(version).eval()
    ids = torch.arange(20, 32)[None]
    targets = torch.full_like(ids, -100)
    targets[0, 5:9] = ids[0, 6:10]
    tokens = model(input_ids=ids, shift_labels=targets, token_losses=True).loss
    assert tokens.shape == ids.shape
    assert (tokens[targets == -100] == 0).all()
    logits = model(input_ids=ids).logits
    expected = torch.nn.functional.cross_entropy(logits[0, 5:9], targets[0, 5:9], reduction="none")
    torch.testing.assert_close(tokens[0, 5:9], expected)
    mean = model(input_ids=ids, shift_labels=targets).loss
    torch.testing.assert_close(tokens.sum() / 4, mean)
    tokens.sum().backward()
    assert model.lm_head.weight.grad.abs().sum() > 0


def test_text_models_have_them_too() -> None:
    config = MiniCPMConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=64,
    )
    ids = torch.arange(4, 12)[None]
    model = MiniCPMForCausalLM(config)
    found = model(input_ids=ids, shift_labels=ids.roll(-1), token_losses=True).loss
    assert found.shape == ids.shape
    assert (found > 0).all()
