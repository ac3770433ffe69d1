"""Head and loss in tiles, against logits of all tokens."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minicpmv.model.loss import linear_cross_entropy, token_logprobs

N, HIDDEN, VOCAB = 83, 24, 131
SMALL = 20 * 4 * VOCAB  # 20 rows per tile: several tiles, the last one not full


def inputs(dtype: torch.dtype = torch.float32, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCAB, (N,), generator=generator)
    targets[torch.rand(N, generator=generator) < 0.4] = -100
    weights = torch.rand(N, generator=generator) + 0.5
    return hidden, weight, targets, weights


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


def close(a, b, limit=1e-5):
    torch.testing.assert_close(a, b, rtol=limit, atol=limit)


@pytest.mark.parametrize("scaling", [1.0, 9.0])
@pytest.mark.parametrize("num_items", [None, 100, torch.tensor(100)], ids=["mean", "int", "tensor"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_tiles_equal_full_logits(scaling, num_items, is_weighted):
    hidden, weight, targets, weights = inputs()
    losses = F.cross_entropy(hidden / scaling @ weight.t(), targets, reduction="none")
    factors = weights if is_weighted else torch.ones(N)
    count = (targets != -100).sum() if num_items is None else num_items
    expected = (losses * factors).sum() / count
    found = linear_cross_entropy(
        hidden,
        weight,
        targets,
        scaling=scaling,
        num_items=num_items,
        weights=factors if is_weighted else None,
        buffer_bytes=SMALL,
    )
    assert found.dtype == torch.float32
    close(found, expected)
    for a, b in zip(
        gradients(3 * found, hidden, weight), gradients(3 * expected, hidden, weight), strict=True
    ):
        close(a, b)


@pytest.mark.parametrize("scaling", [1.0, 9.0])
def test_logprobs_equal_log_softmax(scaling):
    hidden, weight, targets, factors = inputs()
    full = (hidden / scaling @ weight.t()).log_softmax(dim=1)
    expected = full.gather(1, targets.clamp(min=0)[:, None])[:, 0] * (targets != -100)
    found = token_logprobs(hidden, weight, targets, scaling=scaling, buffer_bytes=SMALL)
    close(found, expected)
    assert bool((found[targets == -100] == 0).all())
    for a, b in zip(
        gradients((found * factors).sum(), hidden, weight),
        gradients((expected * factors).sum(), hidden, weight),
        strict=True,
    ):
        close(a, b)


class _Adapter(nn.Module):
    """A head that is no plain table."""

    def __init__(self, weight):
        super().__init__()
        self.out_features = VOCAB
        self.base = nn.Parameter(weight.detach().clone())
        self.a = nn.Parameter(torch.randn(3, HIDDEN) * 0.1)
        self.b = nn.Parameter(torch.randn(VOCAB, 3) * 0.1)

    def forward(self, x):
        return x @ self.base.t() + x @ self.a.t() @ self.b.t()


def test_heads_that_are_modules():
    hidden, weight, targets, weights = inputs()
    torch.manual_seed(0)
    head = _Adapter(weight)
    names = [head.base, head.a, head.b]
    losses = F.cross_entropy(head(hidden / 4), targets, reduction="none")
    expected = (losses * weights).sum() / 50
    found = linear_cross_entropy(
        hidden, head, targets, scaling=4, num_items=50, weights=weights, buffer_bytes=SMALL
    )
    close(found, expected)
    for a, b in zip(
        gradients(found, hidden, *names), gradients(expected, hidden, *names), strict=True
    ):
        close(a, b)
    close(token_logprobs(hidden, head, targets, scaling=4), -losses)


def test_a_plain_module_is_its_table():
    hidden, weight, targets, _ = inputs()
    head = nn.Linear(HIDDEN, VOCAB, bias=False)
    head.weight = nn.Parameter(weight.detach())
    expected = linear_cross_entropy(hidden, weight, targets, buffer_bytes=SMALL)
    assert linear_cross_entropy(hidden, head, targets, buffer_bytes=SMALL) == expected


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets, _ = inputs()
    loss = linear_cross_entropy(hidden, weight.detach(), targets, buffer_bytes=SMALL)
    full = F.cross_entropy(hidden @ weight.t(), targets)
    close(gradients(loss, hidden)[0], gradients(full, hidden)[0])


def test_autocast_multiplies_in_bfloat16_and_sums_in_float32():
    hidden, weight, targets, _ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, targets, buffer_bytes=SMALL)
        logits = F.linear(hidden, weight)
        expected = F.cross_entropy(logits.float(), targets)
    assert logits.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    close(found, expected)
    for a, b in zip(
        gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True
    ):
        assert a.dtype == torch.float32
        close(a, b, 2e-2)


@pytest.mark.parametrize("is_module", [False, True])
def test_no_target_is_a_loss_of_zero_with_gradients_of_zero(is_module):
    hidden, weight, targets, _ = inputs()
    head = _Adapter(weight) if is_module else weight
    loss = linear_cross_entropy(hidden, head, torch.full_like(targets, -100))
    assert loss == 0
    parameter = head.base if is_module else weight
    for grad in gradients(loss, hidden, parameter):
        assert not grad.any()


def test_only_tiles_of_logits_are_made(monkeypatch):
    hidden, weight, targets, _ = inputs()
    sizes = []
    linear = F.linear

    def counting(x, table, bias=None):
        result = linear(x, table, bias)
        sizes.append(result.numel() if result.shape[-1] == VOCAB else 0)
        return result

    monkeypatch.setattr(F, "linear", counting)
    linear_cross_entropy(hidden, weight, targets, buffer_bytes=SMALL).backward()
    assert sum(sizes) == int((targets != -100).sum()) * VOCAB
    assert max(sizes) == 20 * VOCAB
