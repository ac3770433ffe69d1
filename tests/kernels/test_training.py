"""Training of linear layers in float32 by oneDNN, against PyTorch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minicpmv.kernels import training
from minicpmv.kernels.training import fast_training_products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


@pytest.fixture
def products(monkeypatch):
    """The context wherever the test runs, counting the layers that it takes up."""
    monkeypatch.setattr(training, "prefers_onednn", lambda dtype, has_bias: True)
    calls = []
    apply = training._Linear.apply
    monkeypatch.setattr(
        training._Linear, "apply", lambda *inputs: calls.append(1) or apply(*inputs)
    )
    return calls


def layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 7, bias=False))


def step(model, x):
    model.zero_grad(set_to_none=True)
    x.grad = None
    loss = model(x).square().sum()
    loss.backward()
    return [
        loss.detach(),
        x.grad.clone(),
        *(p.grad.clone() for p in model.parameters() if p.requires_grad),
    ]


@pytest.mark.parametrize("shape", [(5, 12), (2, 9, 12)])
@pytest.mark.parametrize("frozen", [[], ["0.weight", "0.bias"], ["0.weight", "0.bias", "2.weight"]])
def test_gradients_are_those_of_pytorch(products, shape, frozen):
    model = layers()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    x = torch.randn(shape, requires_grad=True)
    expected = step(model, x)
    with fast_training_products():
        found = step(model, x)
    assert len(products) == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_transposed_input(products):
    x = torch.randn(12, 5, requires_grad=True)
    w = torch.randn(7, 12, requires_grad=True)
    expected = torch.autograd.grad(F.linear(x.t(), w).square().sum(), [x, w])
    with fast_training_products():
        found = torch.autograd.grad(F.linear(x.t(), w).square().sum(), [x, w])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_layers_that_are_computed_again(products):
    model, x = layers(), torch.randn(5, 12, requires_grad=True)
    expected = step(model, x)
    with fast_training_products():
        found = step(checkpointed(model), x)
    assert len(products) == 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def checkpointed(model):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return checkpoint(self.model, x, use_reentrant=False)

    return Checkpointed()


def test_autocast_and_bfloat16_are_left_to_pytorch(products):
    model, x = layers(), torch.randn(5, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = step(model, x)
        with fast_training_products():
            found = step(model, x)
            assert model(x).dtype == torch.bfloat16
    with fast_training_products():
        layers().bfloat16()(x.detach().bfloat16()).sum().backward()
        model(x[0].detach()).sum().backward()  # one row
        with torch.no_grad():
            model(x[:1])  # too few rows to gain
    assert not products
    assert F.linear is training._torch_linear
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_nothing_happens_where_pytorch_is_as_fast(monkeypatch):
    monkeypatch.setattr(training, "prefers_onednn", lambda dtype, has_bias: False)
    with fast_training_products():
        assert F.linear is training._torch_linear
