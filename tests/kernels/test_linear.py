"""Products with packed weights, against the formula and between roads of computing them."""

import pytest
import torch

from minicpmv.kernels import pack, packed_linear
from minicpmv.kernels.linear import fallback_linear, round_activations
from minicpmv.kernels.packing import dequantize

from ..helpers.packed_weights import random_weight


def by_hand(x, packed):
    """Each output as a sum over groups of exact integer products, in float64."""
    weights = dequantize(packed).double()
    return round_activations(x).double() @ weights.T


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "out", "width"), [(1, 16, 32), (3, 50, 100), (70, 33, 129)])
def test_fallback_is_the_formula(bits, rows, out, width):
    packed = pack(*random_weight(out, width, bits), bits)
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(1))
    expected = by_hand(x, packed)
    spread = expected.std()
    assert (fallback_linear(x, packed) - expected).abs().max() < 1e-5 * spread
    bias = torch.randn(out)
    assert (packed_linear(x, packed, bias) - bias - expected).abs().max() < 1e-4 * spread


def test_activations_are_rounded_to_127_steps_of_their_group():
    x = torch.randn(4, 100)
    rounded = round_activations(x)
    for start in range(0, 100, 32):
        part, original = rounded[:, start : start + 32], x[:, start : start + 32]
        step = original.abs().amax(dim=1, keepdim=True) / 127
        assert ((part - original).abs() <= step * 0.5001).all()
        assert torch.allclose(part / step, (part / step).round(), atol=1e-4)


def test_leading_axes_are_kept_and_a_wrong_width_is_named():
    packed = pack(*random_weight(20, 64, 4), 4)
    x = torch.randn(2, 3, 64)
    assert torch.equal(
        packed_linear(x, packed).flatten(0, 1), packed_linear(x.flatten(0, 1), packed)
    )
    assert packed_linear(x[:, :0], packed).shape == (2, 0, 20)
    with pytest.raises(ValueError, match="63 features and the packed weight takes 64"):
        packed_linear(x[..., :63], packed)
