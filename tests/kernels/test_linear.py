"""Products with packed weights, against the formula compiled and in torch."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from minicpmv.kernels import library, pack, packed_linear, why_not
from minicpmv.kernels.linear import compiled_linear, fallback_linear, round_activations
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


@pytest.fixture(scope="module")
def compiled():
    found = library()
    if found is None:
        pytest.skip(f"no compiled kernels: {why_not()}")
    return found


SHAPES = [(1, 16, 32), (1, 50, 100), (2, 33, 1152), (7, 100, 430), (13, 320, 72), (70, 17, 333)]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "out", "width"), SHAPES)
def test_compiled_and_torch_agree(compiled, bits, rows, out, width):
    packed = pack(*random_weight(out, width, bits), bits)
    generator = torch.Generator().manual_seed(rows)
    sizes = torch.logspace(-10, 10, rows)[:, None]  # a row does not disturb the others
    x = torch.randn(rows, width, generator=generator) * sizes
    bias = torch.randn(out, generator=generator)
    expected = fallback_linear(x, packed)
    result = compiled_linear(compiled, x, packed)
    assert ((result - expected).abs().amax(1) <= 1e-5 * expected.std(1)).all()
    plain = x / sizes
    with_bias = compiled_linear(compiled, plain, packed, bias)
    assert torch.allclose(with_bias, fallback_linear(plain, packed, bias), atol=1e-4)
    half = plain.bfloat16()
    narrow = compiled_linear(compiled, half, packed, bias.bfloat16())
    assert narrow.dtype == torch.bfloat16
    expected = fallback_linear(half, packed, bias.bfloat16())
    assert torch.allclose(narrow.float(), expected.float(), rtol=1 / 128, atol=1e-4)
    assert compiled_linear(compiled, plain.half(), packed).dtype == torch.float16


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_is_the_same_alone_and_among_others_and_for_any_number_of_threads(compiled, bits):
    packed = pack(*random_weight(97, 300, bits), bits)
    x = torch.randn(40, 300, generator=torch.Generator().manual_seed(3))
    expected = compiled_linear(compiled, x, packed)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            for rows in (1, 2, 3, 8, 40):
                assert torch.equal(compiled_linear(compiled, x[:rows], packed), expected[:rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("way", ["compiled", "torch"])
def test_what_is_not_finite_stays_in_its_row_and_is_seen(compiled, bits, way):
    packed = pack(*random_weight(20, 100, bits), bits)
    x = torch.randn(6, 100, generator=torch.Generator().manual_seed(4))
    x[1, 7], x[2, 99], x[3] = torch.nan, torch.inf, 0
    x[4] *= 1e-42
    x[5] = 1e30
    product = fallback_linear
    if way == "compiled":
        product = partial(compiled_linear, compiled)
    result = product(x, packed)
    assert result[0].isfinite().all()
    assert result[1:3].isnan().all()
    assert (result[3:5] == 0).all()
    assert torch.allclose(result[0], product(x[:1], packed)[0], rtol=1e-4)
    ones = product(torch.ones(1, 100), packed)
    assert torch.allclose(result[5] / 1e30, ones[0], rtol=1e-4, atol=1e-5)


def test_parts_of_wider_tensors_are_taken_as_they_lie(compiled):
    packed = pack(*random_weight(20, 64, 4), 4)
    x = torch.randn(5, 200)
    for part in (x[:, 10:74], x[:, 0:128:2], torch.randn(64, 5).T):
        result = compiled_linear(compiled, part, packed)
        assert torch.equal(result, compiled_linear(compiled, part.contiguous(), packed))


def test_two_threads_at_a_time(compiled):
    packed = pack(*random_weight(64, 256, 4), 4)
    inputs = [torch.randn(rows, 256) for rows in (1, 3, 17, 40)] * 8
    expected = [compiled_linear(compiled, x, packed) for x in inputs]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda x: compiled_linear(compiled, x, packed), inputs))
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_without_a_library_and_with_gradients_torch_computes(compiled, monkeypatch):
    packed = pack(*random_weight(20, 64, 4), 4)
    x = torch.randn(3, 64, requires_grad=True)
    assert compiled_linear(compiled, x, packed) is None
    monkeypatch.setattr("minicpmv.kernels.linear.built", lambda: None)
    assert torch.equal(packed_linear(x, packed), fallback_linear(x, packed))
