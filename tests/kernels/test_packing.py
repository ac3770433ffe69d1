"""Packing and unpacking give back what went in, whatever the shape."""

import pytest
import torch

from minicpmv.kernels import packing
from minicpmv.kernels.packing import PackedWeight, dequantize, pack, pack_rows, unpack

from ..helpers.packed_weights import random_weight

SHAPES = [(16, 32), (1, 1), (48, 96), (17, 33), (5, 130), (100, 72), (33, 1152)]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_unpacking_gives_back_what_was_packed(rows, width, bits):
    q, scales = random_weight(rows, width, bits)
    packed = pack(q, scales, bits)
    q_back, scales_back = unpack(packed)
    assert torch.equal(q_back, q)
    assert torch.equal(scales_back, scales)


@pytest.mark.parametrize(("bits", "zero"), [(4, 8), (8, 0)])
def test_dequantize_is_the_formula(bits, zero):
    q, scales = random_weight(37, 100, bits)
    expected = (q.float() - zero) * scales.float().repeat_interleave(32, dim=1)[:, :100]
    packed = pack(q, scales, bits)
    assert torch.equal(dequantize(packed), expected)
    assert torch.equal(dequantize(packed, 3, 20), expected[3:20])
    assert torch.equal(dequantize(packed, dtype=torch.bfloat16), expected.bfloat16())


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_give_the_bytes_of_the_whole(bits, monkeypatch):
    q, scales = random_weight(83, 70, bits)
    whole = pack(q, scales, bits)
    monkeypatch.setattr(packing, "_BLOCK_WEIGHTS", 1)  # one tile at a time
    assert torch.equal(pack(q, scales, bits).data, whole.data)
    in_parts = PackedWeight.empty(bits, 83, 70)
    pack_rows(in_parts, 48, q[48:], scales[48:])
    pack_rows(in_parts, 0, q[:48], scales[:48])
    assert torch.equal(in_parts.data, whole.data)
    assert torch.equal(unpack(whole)[0], q)


def test_layout_of_int4_is_as_documented():
    q, scales = random_weight(32, 64, 4)
    tile = pack(q, scales, 4).data[1, 1]  # outputs 16..31, inputs 32..63
    for r, k in [(0, 0), (3, 2), (7, 5), (15, 31), (9, 20)]:
        j, rest = divmod(k, 8)
        half, b = divmod(rest, 4)
        byte = int(tile[32 + j * 64 + r * 4 + b])
        assert (byte >> 4 if half else byte & 15) == int(q[16 + r, 32 + k])
    assert torch.equal(tile[:32].view(torch.float16), scales[16:, 1])


def test_layout_of_int8_is_as_documented():
    q, scales = random_weight(32, 64, 8)
    tile = pack(q, scales, 8).data[1, 1].view(torch.int8)
    for r, k in [(0, 0), (3, 2), (7, 5), (15, 31), (9, 20)]:
        assert int(tile[32 + k // 4 * 64 + r * 4 + k % 4]) == int(q[16 + r, 32 + k])


def test_bytes_per_weight():
    assert PackedWeight.empty(4, 64, 64).data.numel() * 8 == 64 * 64 * 4.5
    assert PackedWeight.empty(8, 64, 64).data.numel() * 8 == 64 * 64 * 8.5


def test_wrong_shapes_are_named():
    q, scales = random_weight(40, 64, 4)
    with pytest.raises(ValueError, match="one scale per 32 inputs"):
        pack(q, scales[:, :1], 4)
    with pytest.raises(ValueError, match="4 or 8 bits, not 5"):
        pack(q, scales, 5)
    packed = PackedWeight.empty(4, 40, 64)
    with pytest.raises(ValueError, match="do not fit 40"):
        pack_rows(packed, 8, q[:16], scales[:16])
    with pytest.raises(ValueError, match="end inside a tile"):
        pack_rows(packed, 0, q[:20], scales[:20])
    with pytest.raises(ValueError, match="Pack them anew"):
        PackedWeight(packed.data[:1], 4, 40, 64)
