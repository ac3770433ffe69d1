"""Blocks with a scale and an offset: Q4_K, Q5_K, Q2_K.

Around the obvious scale a row of tries: codes by rounding, then the scale and minimum that fit
these codes best (least squares, weighted), kept when the error is smaller. The minimum that a
better try found is used in the following ones, as ggml has it.
"""

from typing import Any

import numpy as np

from . import lanes
from .arithmetic import LANES, F, I, compiled, from_half, nearest, to_half
from .lanes import (
    BEST,
    CODES,
    INVERSE,
    KEPT_FIRST,
    KEPT_INVERSE,
    KEPT_LEAST,
    LEAST,
    MOST,
    OFFSET,
    SCALE,
    SHIFT,
    STEP,
    SUM_L,
    SUM_LL,
    SUM_W,
    SUM_X,
    SUM_XL,
    TRY_ERROR,
    TRY_LEAST,
    TRY_SCALE,
    W,
    X,
)


@compiled
def search(
    n: int, top: int, start: Any, step: Any, tries: int, squared: bool, bounded: bool, s: Any
) -> None:
    """Scale and offset (SCALE, OFFSET) of sub-blocks of `n` values with codes 0 to `top`.

    Args:
        start, step, tries: the k-th try has top + start + step * k steps in the range.
        squared: the error is squared, else absolute.
        bounded: numbers are brought between 0 and `top` before they are rounded, not after; it
            makes a difference beyond 2**22.
    """
    _begin(n, F(top), s)
    _encode(n, I(top), False, s)
    for b in range(LANES):
        s[TRY_SCALE, b] = s[SCALE, b]
        s[TRY_LEAST, b] = s[LEAST, b]
    _measure(n, squared, s)
    for b in range(LANES):
        is_flat = s[MOST, b] == s[LEAST, b]
        s[BEST, b] = F(-1) if is_flat else s[TRY_ERROR, b]  # below every error: it stays
        s[SCALE, b] = F(0) if is_flat else s[SCALE, b]
        s[KEPT_INVERSE, b] = F(0) if is_flat else s[INVERSE, b]
        s[KEPT_LEAST, b] = s[LEAST, b]
        s[KEPT_FIRST, b] = F(1)
    for k in range(tries):
        steps = F(F(start + F(step * F(k))) + F(top))
        for b in range(LANES):
            s[INVERSE, b] = steps / (s[MOST, b] - s[LEAST, b])
        _encode(n, I(top), bounded, s)
        _fit(n, s)
        _measure(n, squared, s)
        _keep_better(s)
    for b in range(LANES):
        s[OFFSET, b] = -s[LEAST, b]


@compiled
def _begin(n: int, top: Any, s: Any) -> None:
    """Range and sums of weights; the scale that the range gives."""
    for b in range(LANES):
        s[LEAST, b] = s[X, b]
        s[MOST, b] = s[X, b]
        s[SUM_W, b] = s[W, b]
        s[SUM_X, b] = s[W, b] * s[X, b]
    for i in range(1, n):
        for b in range(LANES):
            value = s[X + i, b]
            s[LEAST, b] = value if value < s[LEAST, b] else s[LEAST, b]
            s[MOST, b] = value if value > s[MOST, b] else s[MOST, b]
            s[SUM_W, b] += s[W + i, b]
            s[SUM_X, b] += s[W + i, b] * value
    for b in range(LANES):
        s[LEAST, b] = F(0) if s[LEAST, b] > F(0) else s[LEAST, b]
        s[INVERSE, b] = top / (s[MOST, b] - s[LEAST, b])
        s[SCALE, b] = F(1) / s[INVERSE, b]


@compiled
def _encode(n: int, top: Any, bounded: bool, s: Any) -> None:
    """Codes of INVERSE and LEAST; the sums over them that the fit needs."""
    for b in range(LANES):
        s[SUM_L, b] = F(0)
        s[SUM_LL, b] = F(0)
        s[SUM_XL, b] = F(0)
    most = F(top)
    for i in range(n):
        for b in range(LANES):
            value = s[X + i, b]
            place = s[INVERSE, b] * (value - s[LEAST, b])
            if bounded:
                place = min(place, most) if place > F(0) else F(0)
            code = F(max(I(0), min(top, nearest(place))))
            weighted = s[W + i, b] * code
            s[CODES + i, b] = code
            s[SUM_L, b] += weighted
            s[SUM_LL, b] += weighted * code
            s[SUM_XL, b] += weighted * value


@compiled
def _fit(n: int, s: Any) -> None:
    """Scale and minimum of least squares; a scale that is not a number where there is none."""
    for b in range(LANES):
        weight, values, codes = s[SUM_W, b], s[SUM_X, b], s[SUM_L, b]
        divisor = weight * s[SUM_LL, b] - codes * codes
        scale = (weight * s[SUM_XL, b] - values * codes) / divisor
        least = (s[SUM_LL, b] * values - codes * s[SUM_XL, b]) / divisor
        scale = s[SUM_XL, b] / s[SUM_LL, b] if least > F(0) else scale
        s[TRY_LEAST, b] = F(0) if least > F(0) else least
        s[TRY_SCALE, b] = scale if divisor > F(0) else F(np.nan)


@compiled
def _measure(n: int, squared: bool, s: Any) -> None:
    """TRY_ERROR of the codes with TRY_SCALE and TRY_LEAST."""
    for b in range(LANES):
        s[TRY_ERROR, b] = F(0)
    if squared:
        for i in range(n):
            for b in range(LANES):
                off = s[TRY_SCALE, b] * s[CODES + i, b] + s[TRY_LEAST, b] - s[X + i, b]
                s[TRY_ERROR, b] += s[W + i, b] * (off * off)
    else:
        for i in range(n):
            for b in range(LANES):
                off = s[TRY_SCALE, b] * s[CODES + i, b] + s[TRY_LEAST, b] - s[X + i, b]
                s[TRY_ERROR, b] += s[W + i, b] * abs(off)


@compiled
def _keep_better(s: Any) -> None:
    for b in range(LANES):
        is_better = s[TRY_ERROR, b] < s[BEST, b]
        s[BEST, b] = s[TRY_ERROR, b] if is_better else s[BEST, b]
        s[SCALE, b] = s[TRY_SCALE, b] if is_better else s[SCALE, b]
        s[KEPT_INVERSE, b] = s[INVERSE, b] if is_better else s[KEPT_INVERSE, b]
        s[KEPT_LEAST, b] = s[LEAST, b] if is_better else s[KEPT_LEAST, b]
        s[KEPT_FIRST, b] = F(0) if is_better else s[KEPT_FIRST, b]
        s[LEAST, b] = s[TRY_LEAST, b] if is_better else s[LEAST, b]


@compiled
def encode_anew(n: int, top: int, bounded: bool, s: Any) -> None:
    """CODES of the rounded scale and offset (STEP, SHIFT); the search's where STEP is 0."""
    most = I(top)
    for i in range(n):
        for b in range(LANES):
            value = s[X + i, b]
            anew = nearest((value + s[SHIFT, b]) / s[STEP, b])
            place = s[KEPT_INVERSE, b] * (value - s[KEPT_LEAST, b])
            if bounded and s[KEPT_FIRST, b] == F(0):
                place = min(place, F(most)) if place > F(0) else F(0)
            found = nearest(place)
            code = anew if s[STEP, b] != F(0) else found
            s[CODES + i, b] = F(max(I(0), min(most, code)))


@compiled
def _round_scales(s: Any, first: int, count: int, top: Any, row: int, codes: Any) -> Any:
    """Codes of `count` numbers of a row from lane `first` on; the bits of their step."""
    most = F(0)
    for b in range(first, first + count):
        most = s[row, b] if s[row, b] > most else most
    inverse = F(top / most) if most > F(0) else F(0)
    for j in range(count):
        codes[j] = I(nearest(inverse * s[row, first + j]) & I(0xFF))
    return to_half(most / top)


@compiled
def put_bits(out: Any, place: int, bits: Any) -> None:
    out[place] = np.uint8(bits & I(0xFF))
    out[place + 1] = np.uint8(bits >> I(8))


@compiled
def round_by_greatest(s: Any, first: int, out: Any, place: int) -> None:
    """Of Q4_K and Q5_K: scales of a super-block in 16 bytes; STEP and SHIFT of its lanes."""
    scales, offsets = np.empty(8, np.int32), np.empty(8, np.int32)
    d = _round_scales(s, first, 8, F(63), SCALE, scales)
    dmin = _round_scales(s, first, 8, F(63), OFFSET, offsets)
    limit(scales)
    limit(offsets)
    put_six_bits(s, first, d, dmin, scales, offsets, out, place)


@compiled
def put_six_bits(
    s: Any, first: int, d: Any, dmin: Any, scales: Any, offsets: Any, out: Any, place: int
) -> None:
    """Store the steps and eight scales and offsets, codes of a byte; STEP and SHIFT of the lanes.

    What a code above 63 would leave in its neighbour's bits is left there: as ggml does, STEP and
    SHIFT come from the stored bytes.
    """
    put_bits(out, place, d)
    put_bits(out, place + 2, dmin)
    for j in range(4):
        scale, offset = scales[4 + j], offsets[4 + j]
        out[place + 4 + j] = np.uint8((scales[j] | I(I(scale >> I(4)) << I(6))) & I(0xFF))
        out[place + 8 + j] = np.uint8((offsets[j] | I(I(offset >> I(4)) << I(6))) & I(0xFF))
        out[place + 12 + j] = np.uint8((scale & I(15)) | I(I(offset & I(15)) << I(4)))
    for j in range(4):
        first_byte, second = I(out[place + 4 + j]), I(out[place + 8 + j])
        third = I(out[place + 12 + j])
        s[STEP, first + j] = from_half(d) * F(I(first_byte & I(63)))
        s[SHIFT, first + j] = from_half(dmin) * F(I(second & I(63)))
        upper = I(I(first_byte >> I(6)) << I(4))
        s[STEP, first + 4 + j] = from_half(d) * F(I(I(third & I(15)) | upper))
        upper = I(I(second >> I(6)) << I(4))
        s[SHIFT, first + 4 + j] = from_half(dmin) * F(I(I(third >> I(4)) | upper))


@compiled
def limit(codes: Any) -> None:
    for j in range(len(codes)):
        codes[j] = min(I(63), codes[j])


@compiled
def put_nibbles(s: Any, first: int, out: Any, place: int) -> None:
    """128 bytes: of each pair of sub-blocks the low halves of the first, high of the second."""
    for pair in range(4):
        lane = first + 2 * pair
        for j in range(32):
            low, high = I(s[CODES + j, lane]), I(s[CODES + j, lane + 1])
            out[place + 32 * pair + j] = np.uint8((low & I(15)) | ((high & I(15)) << I(4)))


@compiled
def put_fifth_bits(s: Any, first: int, out: Any, place: int) -> None:
    """32 bytes: bit i of byte j is bit 4 of value j of sub-block i."""
    for j in range(32):
        bits = I(0)
        for i in range(8):
            bits = I(bits | I((I(s[CODES + j, first + i]) >> I(4)) << I(i)))
        out[place + j] = np.uint8(bits)


@compiled
def put_two_bits(s: Any, first: int, out: Any, place: int) -> None:
    """64 bytes of 16 sub-blocks of 16: per 128 values, four layers over 32 bytes."""
    for half in range(2):
        for j in range(32):
            bits = I(0)
            for layer in range(4):
                lane = first + 8 * half + 2 * layer + j // 16
                bits = I(bits | I((I(s[CODES + j % 16, lane]) & I(3)) << I(2 * layer)))
            out[place + 32 * half + j] = np.uint8(bits)


@compiled
def q4_k(x: Any, out: Any) -> None:
    """float32 (n * 256,) -> uint8 (n * 144,)."""
    s = lanes.table()
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 8):
        lanes.fill(x, block * 8, 32, s)
        lanes.weigh_by_size_and_spread(32, s)
        search(32, 15, F(-1), F(0.1), 21, True, False, s)
        count = min(LANES // 8, blocks - block)
        for j in range(count):
            round_by_greatest(s, 8 * j, out, (block + j) * 144)
        encode_anew(32, 15, False, s)
        for j in range(count):
            put_nibbles(s, 8 * j, out, (block + j) * 144 + 16)


@compiled
def q5_k(x: Any, out: Any) -> None:
    """float32 (n * 256,) -> uint8 (n * 176,)."""
    s = lanes.table()
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 8):
        lanes.fill(x, block * 8, 32, s)
        lanes.weigh_by_size_and_spread(32, s)
        search(32, 31, F(-0.5), F(0.1), 16, True, False, s)
        count = min(LANES // 8, blocks - block)
        for j in range(count):
            round_by_greatest(s, 8 * j, out, (block + j) * 176)
        encode_anew(32, 31, False, s)
        for j in range(count):
            put_fifth_bits(s, 8 * j, out, (block + j) * 176 + 16)
            put_nibbles(s, 8 * j, out, (block + j) * 176 + 48)


@compiled
def q2_k(x: Any, out: Any) -> None:
    """float32 (n * 256,) -> uint8 (n * 84,)."""
    s = lanes.table()
    scales, offsets = np.empty(16, np.int32), np.empty(16, np.int32)
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 16):
        lanes.fill(x, block * 16, 16, s)
        lanes.weigh_by_size(16, s)
        search(16, 3, F(-0.5), F(0.1), 16, False, False, s)
        count = min(LANES // 16, blocks - block)
        for j in range(count):
            d = _round_scales(s, 16 * j, 16, F(15), SCALE, scales)
            dmin = _round_scales(s, 16 * j, 16, F(15), OFFSET, offsets)
            put_four_bits(s, 16 * j, d, dmin, scales, offsets, out, (block + j) * 84)
        encode_anew(16, 3, False, s)
        for j in range(count):
            put_two_bits(s, 16 * j, out, (block + j) * 84 + 16)


@compiled
def put_four_bits(
    s: Any, first: int, d: Any, dmin: Any, scales: Any, offsets: Any, out: Any, place: int
) -> None:
    """Of Q2_K: 16 bytes of a scale and an offset, and their steps at the end of the block."""
    put_bits(out, place + 80, d)
    put_bits(out, place + 82, dmin)
    for j in range(16):
        byte = I((scales[j] | I(offsets[j] << I(4))) & I(0xFF))
        out[place + j] = np.uint8(byte)
        s[STEP, first + j] = from_half(d) * F(I(byte & I(15)))
        s[SHIFT, first + j] = from_half(dmin) * F(I(byte >> I(4)))
