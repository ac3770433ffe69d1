"""Products of many rows through blocks of wider weights: within the error of the format."""

import pytest
import torch
import torch.nn.functional as F

from minicpmv.kernels import blocked as module
from minicpmv.kernels import dequantize, library, pack, why_not
from minicpmv.kernels.blocked import best_way, blocked_linear, can_widen, int8_is_exact
from minicpmv.kernels.linear import compiled_linear, fallback_linear


@pytest.fixture(scope="module")
def compiled():
    found = library()
    if found is None or not can_widen(found):
        pytest.skip(f"no blocks of weights here: {why_not() or 'written for AVX-512'}")
    return found


def quantised(outputs, inputs, bits, seed=0):
    """A normal weight and its packed form, scaled as Q4_0 and Q8_0 are."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    groups = F.pad(weight, (0, -inputs % 32)).unflatten(1, (-1, 32))
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = (largest / (-8 if bits == 4 else 127)).half().float()
    q = (groups / scales).round()
    q = (q + 8).clamp(0, 15) if bits == 4 else q.clamp(-127, 127)
    return weight, pack(q.flatten(1)[:, :inputs].to(torch.int8), scales[:, :, 0], bits)


def relative(result, expected):
    return float((result.float() - expected).norm() / expected.norm())


SHAPES = [(64, 130, 1152), (50, 50, 333), (48, 16, 32)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["int8", "bfloat16"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_error_is_small_against_that_of_4_bits(
    compiled, monkeypatch, rows, outputs, inputs, bits, way, dtype
):
    if way == "int8" and not int8_is_exact():
        pytest.skip("torch multiplies bytes with saturation here")
    monkeypatch.setattr(module, "_BLOCK_WEIGHTS", 1)  # several blocks
    monkeypatch.setattr(module, "_MIN_OUTPUTS", 32)
    weight, packed = quantised(outputs, inputs, bits)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = F.linear(x.float(), dequantize(packed))
    of_4_bits = relative(exact, F.linear(x.float(), weight)) if bits == 4 else 0.08
    result = blocked_linear(compiled, x, packed, None, way, None)
    assert result.dtype == dtype
    assert relative(result, exact) < (0.18 if way == "int8" else 0.06) * of_4_bits
    bias = torch.randn(outputs)
    with_bias = blocked_linear(compiled, x, packed, bias, way, None)
    assert torch.allclose(with_bias.float(), result.float() + bias, atol=0.02, rtol=0.02)


def test_int8_weights_are_the_nearest_multiples_of_a_scale_per_output(compiled):
    """Seen through the product with the unit matrix."""
    _, packed = quantised(40, 64, 4)
    columns = blocked_linear(compiled, torch.eye(64), packed, None, "int8", None).T
    weights = dequantize(packed)
    groups = weights.unflatten(1, (-1, 32)).abs().amax(2)
    step = groups.amax(1, keepdim=True) / 127  # at least: 8 steps of 4 bits are 127
    assert ((columns - weights).abs() <= 0.52 * step * 8 / 7).all()


def test_rows_with_towering_activations_are_left_to_the_kernel(compiled):
    _, packed = quantised(48, 320, 4)
    x = torch.randn(64, 320, generator=torch.Generator().manual_seed(2))
    x[5, 7], x[6, 9], x[7, 3] = 1e4, torch.nan, torch.inf
    seen = []

    def kernel(rows):
        seen.append(len(rows))
        return compiled_linear(compiled, rows, packed)

    result = blocked_linear(compiled, x, packed, None, "int8", kernel)
    assert seen == [1]
    assert torch.allclose(result[5], fallback_linear(x[5:6], packed)[0], rtol=1e-4, atol=1e-2)
    assert result[6:8].isnan().all()
    assert result[:5].isfinite().all()
    x[::4, 0] = 1e4  # too many: bfloat16 for all
    result = blocked_linear(compiled, x, packed, None, "int8", kernel)
    assert seen == [1]
    assert relative(result[8:], F.linear(x[8:], dequantize(packed))) < 0.01


def test_the_way_follows_the_processor(compiled, monkeypatch):
    _, int4 = quantised(16, 32, 4)
    _, int8 = quantised(16, 32, 8)
    known = {"amx_int8": True, "amx_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    monkeypatch.setattr(module, "int8_is_exact", lambda: True)
    assert best_way(compiled, int4, 512) == "int8"
    assert best_way(compiled, int8, 512) == "int8"
    assert best_way(compiled, int4, 8) is None
    monkeypatch.setattr(module, "int8_is_exact", lambda: False)
    assert best_way(compiled, int4, 512) == "bfloat16"
    known.clear()
    assert best_way(compiled, int4, 512) is None
