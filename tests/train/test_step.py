"""Steps that are faster and compute the same."""

import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from minicpmv.train.step import fast_step, prepare_process

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of PEFT


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 12)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def adapted(dtype):
    torch.manual_seed(0)
    model = get_peft_model(
        Block().to(dtype), LoraConfig(target_modules=["first", "second"], init_lora_weights=False)
    )
    return model.train()


def gradients(model, x, autocast):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(x).float().square().sum()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_stay(dtype, autocast):
    model = adapted(dtype)
    x = torch.randn(2, 9, 12).to(dtype)
    expected = gradients(model, x, autocast)
    with fast_step(model, autocast=autocast):
        found = gradients(model, x, autocast)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_adapters_are_as_before_afterwards():
    model = adapted(torch.bfloat16)
    layers = [m for m in model.modules() if hasattr(m, "cast_input_dtype_enabled")]
    assert layers
    with fast_step(model, autocast=True):
        assert not any(layer.cast_input_dtype_enabled for layer in layers)
    assert all(layer.cast_input_dtype_enabled for layer in layers)
    with fast_step(model, autocast=False):
        assert all(layer.cast_input_dtype_enabled for layer in layers)


def test_the_process_is_prepared(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    assert prepare_process() is False
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert int(os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY")) == 128
    monkeypatch.delenv("LRU_CACHE_CAPACITY")
    prepare_process()
    assert int(os.environ.pop("LRU_CACHE_CAPACITY")) == 32
    assert int(os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY")) == 128
