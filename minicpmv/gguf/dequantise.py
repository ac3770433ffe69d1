"""Stored blocks back to float32, in the order of operations of ggml, so that bits are equal.

Plain numpy, so that reading a file needs nothing that is not there anyway.
"""

from collections.abc import Callable

import numpy as np

from .types import GGMLType

# The sixteen values of IQ4_NL and IQ4_XS.
IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_PIECE = 1 << 22  # values at a time: keeps the integers between in the cache's neighbourhood


def dequantise(
    blocks: np.ndarray, type_: GGMLType, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """The numbers that blocks stand for.

    Args:
        blocks: uint8 (rows, bytes of a row).
        shape: of the result; (rows, width) without it.

    Returns:
        float32.

    Raises:
        ValueError: the blocks are no whole number of blocks, or do not fill the shape.
    """
    if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] % type_.block_bytes:
        raise ValueError(
            f"{type_.name} is stored as uint8 rows of a multiple of {type_.block_bytes} bytes; "
            f"got {blocks.dtype} {list(blocks.shape)}."
        )
    rows, width = len(blocks), blocks.shape[1] // type_.block_bytes * type_.block
    shape = (rows, width) if shape is None else shape
    if int(np.prod(shape)) != rows * width:
        raise ValueError(f"{rows} rows of {width} values do not fill the shape {list(shape)}.")
    values = np.empty((rows, width), np.float32)
    step = max(1, _PIECE // max(1, width))
    for start in range(0, rows, step):
        piece = np.ascontiguousarray(blocks[start : start + step])
        found = _READERS[type_.name](piece.reshape(-1, type_.block_bytes))
        values[start : start + step] = found.reshape(-1, width)
    return values.reshape(shape)


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 at a byte of every block: float32 (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """(..., n) bytes -> (..., 2n) codes: all low halves, then all high ones."""
    return np.concatenate([codes & 15, codes >> 4], axis=-1)


def _f32(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f4")


def _f16(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: np.ndarray) -> np.ndarray:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return blocks[:, 2:].view(np.int8) * _half(blocks, 0)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return (_nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)) * _half(blocks, 0)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _nibbles(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2)


def _fifth_bits(blocks: np.ndarray, start: int) -> np.ndarray:
    """Bit 4 of every value of a block of 32: uint8 (blocks, 32), 0 or 16."""
    return np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << 4


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return (codes.view(np.int8) - np.int8(16)) * _half(blocks, 0)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return codes * _half(blocks, 0) + _half(blocks, 2)


def _iq4_nl(blocks: np.ndarray) -> np.ndarray:
    return _half(blocks, 0) * IQ4_VALUES[_nibbles(blocks[:, 2:])]


def _iq4_xs(blocks: np.ndarray) -> np.ndarray:
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    upper = np.ascontiguousarray(blocks[:, 2:4]).view("<u2")
    high = (upper >> (2 * np.arange(8, dtype=np.uint16))) & 3
    scales = (low | (high << 4)).astype(np.int32) - 32
    dl = _half(blocks, 0) * scales.astype(np.float32)
    codes = _nibbles(blocks[:, 8:].reshape(-1, 8, 16))  # (blocks, 8, 32)
    return dl[:, :, None] * IQ4_VALUES[codes]


def _two_bits(codes: np.ndarray) -> np.ndarray:
    """64 bytes -> 256 codes of two bits: per 128 values, four layers over 32 bytes."""
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return (codes.reshape(-1, 2, 1, 32) >> shifts) & 3  # (blocks, 2, 4, 32)


def _q2_k(blocks: np.ndarray) -> np.ndarray:
    scales = blocks[:, :16]
    dl = _half(blocks, 80) * (scales & 15)
    ml = _half(blocks, 82) * (scales >> 4)
    codes = _two_bits(blocks[:, 16:80]).reshape(-1, 16, 16)
    return dl[:, :, None] * codes - ml[:, :, None]


def _q3_k(blocks: np.ndarray) -> np.ndarray:
    stored = blocks[:, 96:108]
    low = np.concatenate([stored[:, :8] & 15, stored[:, :8] >> 4], axis=1)  # (blocks, 16)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = ((stored[:, None, 8:] >> shifts) & 3).reshape(-1, 16)
    scales = (low | (high << 4)).view(np.int8) - np.int8(32)
    dl = _half(blocks, 108) * scales
    bits = np.arange(8, dtype=np.uint8)[:, None]
    mask = (blocks[:, None, :32] >> bits) & 1  # (blocks, 8, 32): bit i of byte j is value 32i + j
    codes = _two_bits(blocks[:, 32:96]).reshape(-1, 8, 32) | (mask << 2)
    signed = codes.view(np.int8) - np.int8(4)
    return dl[:, :, None] * signed.reshape(-1, 16, 16)


def scales_and_offsets(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of Q4_K and Q5_K: 12 bytes from byte 4 on -> six-bit codes, uint8 (blocks, 8) each."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    offsets = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales, offsets


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    return _with_offsets(blocks, _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32))


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    bits = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks[:, None, 16:48] >> bits) & 1  # (blocks, 8, 32)
    return _with_offsets(blocks, low | (high << 4))


def _with_offsets(blocks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    scales, offsets = scales_and_offsets(blocks)
    dl, ml = _half(blocks, 0) * scales, _half(blocks, 2) * offsets
    return dl[:, :, None] * codes - ml[:, :, None]


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    codes = low | (_two_bits(blocks[:, 128:192]) << 4)
    scales = blocks[:, 192:208].view(np.int8)
    dl = _half(blocks, 208) * scales
    signed = codes.view(np.int8) - np.int8(32)
    return dl[:, :, None] * signed.reshape(-1, 16, 16)


_READERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
