"""Weights in the words of GPTQ, AWQ and compressed-tensors, packed by hand."""

import pytest
import torch

from minicpmv.quantization import awq, compressed, gptq
from minicpmv.quantization.words import pack_words, unpack_words


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dim", [0, 1])
def test_packing_there_and_back(bits, dim):
    codes = torch.randint(2**bits, (32, 64), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(unpack_words(pack_words(codes, bits, dim), bits, dim), codes.int())


def test_first_number_lies_lowest():
    words = pack_words(torch.arange(8)[None], 4, 1)
    assert words.tolist() == [[0x76543210]]
    assert pack_words(torch.full((1, 8), 15), 4, 1).tolist() == [[-1]]
    assert pack_words(torch.ones(1, 3), 4, 1).tolist() == [[0x111]]


def test_awq_by_hand():
    # Output 1 stands at place 4 of its word, output 2 at place 1.
    qweight = torch.tensor([[0x00050030], [0x00000000]], dtype=torch.int32)
    qzeros = torch.tensor([[0x00010000]], dtype=torch.int32)
    scales = torch.full((1, 8), 0.5)
    weight = awq.unpack(qweight, qzeros, scales, 2)
    assert weight.shape == (8, 2)
    assert weight[2].tolist() == [1.5, 0.0]  # (3 - 0) / 2
    assert weight[1].tolist() == [2.0, -0.5]  # (5 - 1) / 2, (0 - 1) / 2
    assert weight[0].tolist() == weight[7].tolist() == [0.0, 0.0]


def test_compressed_by_hand():
    parts = {
        "weight_packed": torch.tensor([[0x0000000F], [0x07777778]], dtype=torch.int32),
        "weight_scale": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "weight_shape": torch.tensor([2, 4]),
    }
    weight = compressed.unpack(parts, 4, 2)
    assert weight.tolist() == [[7.0, -8.0, -16.0, -16.0], [0.0, -3.0, -4.0, -4.0]]
    # Zeros of output 0 in the lowest bits: 9 - 8 = 1 in group 0, 8 - 8 = 0 in group 1.
    zeros = torch.tensor([[0x89, 0x88]], dtype=torch.int32)
    weight = compressed.unpack(parts | {"weight_zero_point": zeros}, 4, 2)
    assert weight[0].tolist() == [6.0, -9.0, -16.0, -16.0]
    places = torch.tensor([1, 0, 1, 0])
    weight = compressed.unpack(parts | {"weight_g_idx": places}, 4, 2)
    assert weight[0].tolist() == [14.0, -8.0, -16.0, -8.0]


def test_what_is_packed_is_unpacked():
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-8, 8, (16, 64), generator=generator)
    scales = torch.rand(16, 2, generator=generator)
    expected = codes * scales.repeat_interleave(32, dim=1)
    assert torch.equal(gptq.unpack(**gptq.pack(codes, scales), bits=4), expected)
    assert torch.equal(compressed.unpack(compressed.pack(codes, scales), 4, 32), expected)


def test_gptq_zeros_stand_in_the_middle():
    parts = gptq.pack(torch.zeros(8, 32, dtype=torch.int8), torch.ones(8, 1))
    assert set(parts["qzeros"].flatten().tolist()) == {0x77777777}
    assert set(parts["qweight"].flatten().tolist()) == {0x88888888 - 2**32}
