"""Numbers to integers and scales."""

import pytest
import torch

from minicpmv.kernels.packing import PackedWeight, dequantize
from minicpmv.quantization.quantiser import quantise, quantise_rows


def packed_of(weight, bits):
    packed = PackedWeight.empty(bits, *weight.shape)
    assert quantise_rows(packed, 0, weight)
    return packed


def error_of(weight, packed):
    return float((dequantize(packed) - weight).square().sum() / weight.square().sum())


def one_try(x):
    """What the usual rule for such blocks gives: the largest number at code -8."""
    groups = x.view(-1, 32)
    largest = groups.gather(1, groups.abs().argmax(dim=1, keepdim=True))
    scale = largest / -8
    codes = (groups / scale + 8.5).trunc().clamp(max=15)
    return ((codes - 8) * scale.half().float()).view(x.shape)


def test_int8_is_the_nearest_multiple_of_the_scale():
    weight = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    codes, scales = quantise(weight, 8)
    assert codes.dtype == torch.int8
    assert scales.dtype == torch.float16
    assert scales.shape == (5, 3)
    spread = scales.float().repeat_interleave(32, dim=1)[:, :70]
    assert (codes * spread - weight).abs().max() <= 0.51 * spread.max()
    assert codes.abs().amax(dim=1).eq(127).all()


def test_int4_errs_less_than_one_try():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    error = error_of(weight, packed_of(weight, 4))
    tried = float((one_try(weight) - weight).square().sum() / weight.square().sum())
    assert error < 0.92 * tried


@pytest.mark.parametrize("bits", [4, 8])
def test_numbers_that_are_multiples_of_a_scale_come_out_whole(bits):
    low, high = (-8, 8) if bits == 4 else (-127, 128)
    codes = torch.randint(low, high, (3, 64), generator=torch.Generator().manual_seed(0))
    codes[:, ::32] = low
    weight = codes * 0.125
    assert torch.equal(dequantize(packed_of(weight, bits)), weight)


@pytest.mark.parametrize("bits", [4, 8])
def test_sign_of_a_group_does_not_matter(bits):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    if bits == 4:
        error = error_of(weight, packed_of(weight, 4))
        assert error_of(-weight, packed_of(-weight, 4)) == error
    else:
        assert torch.equal(dequantize(packed_of(-weight, 8)), -dequantize(packed_of(weight, 8)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_of_rows_are_as_the_whole(bits, dtype, monkeypatch):
    weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = packed_of(weight, bits)
    monkeypatch.setattr("minicpmv.quantization.quantiser._BLOCK", 16 * 40)
    assert torch.equal(packed_of(weight, bits).data, whole.data)


@pytest.mark.parametrize("bits", [4, 8])
def test_groups_of_zeros_and_tiny_numbers(bits):
    weight = torch.zeros(16, 64)
    weight[0, 0] = 1e-30
    weight[1, 40] = -1e-7
    values = dequantize(packed_of(weight, bits))
    assert values.isfinite().all()
    assert (values - weight).abs().max() <= 1e-7


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e9])
def test_numbers_without_a_scale_are_reported(bits, value):
    weight = torch.randn(40, 64)
    weight[37, 5] = value
    packed = PackedWeight.empty(bits, 40, 64)
    assert not quantise_rows(packed, 0, weight)
