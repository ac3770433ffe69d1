"""Products with blocks of GGUF files, against those of the numbers that numpy makes of them."""

import numpy as np
import pytest
import torch

from minicpmv.gguf.dequantise import dequantise
from minicpmv.gguf.types import TYPES, UNQUANTISED
from minicpmv.kernels import check, gguf, library, why_not
from minicpmv.kernels.packing import PackedWeight
from minicpmv.quantization.gguf import _repacked

from ..helpers.ggml import random_blocks

KINDS = [name for name, kind in TYPES.items() if kind not in UNQUANTISED]


@pytest.fixture(scope="module")
def compiled():
    found = library()
    if found is None:
        pytest.skip(f"no compiled kernels: {why_not()}")
    return found


def numbers(data, kind):
    return torch.from_numpy(dequantise(data.numpy(), TYPES[kind]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (37, 3), (130, 2)])
def test_numbers_are_those_of_numpy_bit_for_bit(compiled, kind, rows, blocks):
    data = random_blocks(kind, rows, blocks, seed=rows)
    expected = numbers(data, kind)
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.empty(expected.shape, dtype=dtype)
        gguf.widened(compiled, data, TYPES[kind].id, out)
        assert torch.equal(out, expected.to(dtype))
    index = torch.tensor([rows - 1, 0, rows // 2, 0])
    out = torch.empty(4, expected.shape[1])
    gguf.widened(compiled, data, TYPES[kind].id, out, index)
    assert torch.equal(out, expected[index])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1.0, 2.0**-14, 60000.0])
def test_a_few_rows_are_the_product_of_the_numbers(compiled, kind, size):
    data = random_blocks(kind, 37, 5, seed=1, size=size)
    weight = numbers(data, kind).double()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(gguf.MOST_ROWS, weight.shape[1], generator=generator)
    bias = torch.randn(37, generator=generator)
    expected = x.double() @ weight.T
    scale = (x.abs().double() @ weight.abs().T).max()  # of all that is added up
    alone = gguf.few_rows(compiled, x, data, TYPES[kind].id)
    assert alone.dtype == torch.float32
    assert (alone - expected).abs().max() <= 1e-6 * scale
    for count in range(1, len(x)):  # a row's result does not depend on the others
        result = gguf.few_rows(compiled, x[:count], data, TYPES[kind].id)
        assert torch.equal(result, alone[:count])
    biased = gguf.few_rows(compiled, x, data, TYPES[kind].id, bias)
    assert torch.equal(biased, alone + bias)
    half = gguf.few_rows(compiled, x.bfloat16(), data, TYPES[kind].id)
    expected = x.bfloat16().double() @ weight.T
    assert (half - expected).abs().max() <= 2**-8 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_are_zeros(compiled, kind):
    data = torch.zeros_like(random_blocks(kind, 5, 1))
    x = torch.ones(2, numbers(data, kind).shape[1])
    assert not gguf.few_rows(compiled, x, data, TYPES[kind].id).any()


def test_strides_and_threads_change_nothing(compiled):
    data = random_blocks("Q6_K", 50, 2)
    x = torch.randn(3, 1024)
    expected = gguf.few_rows(compiled, x[:, :512].contiguous(), data, 14)
    assert torch.equal(gguf.few_rows(compiled, x[:, :512], data, 14), expected)
    assert torch.equal(gguf.few_rows(compiled, x[:, :512].T.contiguous().T, data, 14), expected)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(gguf.few_rows(compiled, x[:, :512], data, 14), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("outputs", [3, 64, 150])
def test_tiles_are_one_product(monkeypatch, dtype, outputs):
    monkeypatch.setattr(gguf, "TILE_WEIGHTS", 64 * 256)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, 256, generator=generator) * 0.1
    x = torch.randn(20, 256, generator=generator).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype)
    taken = []

    def widen(start, end, out):
        taken.append(end - start)
        out.copy_(weight[start:end])

    result = gguf.by_tiles(x, outputs, widen, bias)
    expected = x.float() @ weight.T + bias.float()
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, atol=1e-2 if dtype.itemsize == 2 else 1e-5,
                               rtol=2e-2 if dtype.itemsize == 2 else 1e-5)  # fmt: skip
    assert sum(taken) == outputs
    assert max(taken) <= 64


def test_a_library_is_compared_with_what_numpy_gives():
    ids = {kind.id: kind for kind in TYPES.values() if kind not in UNQUANTISED}
    assert check.LARGEST.keys() == ids.keys()
    for type_id, (num_bytes, largest) in check.LARGEST.items():
        x, data = check.block_case(num_bytes)
        weight = numbers(data, ids[type_id].name)
        assert weight.shape == (3, 512)
        found = float((x.double() @ weight.double().T).abs().max())
        assert np.isclose(found, largest, rtol=1e-7)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q8_0", 8)])
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_repacked_bytes_are_those_of_torch(compiled, kind, bits, rows):
    data = random_blocks(kind, rows, 5, seed=rows)
    if bits == 8:
        data[data == 128] = 127
    packed, expected = (PackedWeight.empty(bits, rows, 160) for _ in range(2))
    assert gguf.repacked(compiled, data, packed) == _repacked(data, expected) == (True, True)
    assert torch.equal(packed.data, expected.data)
    data[-1, -33 if bits == 8 else -17] = 0x7C  # the upper byte of the last scale
    assert gguf.repacked(compiled, data, packed) == _repacked(data, expected) == (False, True)


def test_a_code_that_the_layout_lacks_is_told(compiled):
    data = torch.zeros_like(random_blocks("Q8_0", 20, 2))
    data[19, -1] = 128
    packed = PackedWeight.empty(8, 20, 64)
    assert gguf.repacked(compiled, data, packed) == _repacked(data, packed) == (True, False)
