"""Blocks with a signed scale and no offset: Q6_K and Q3_K."""

from typing import Any

import numpy as np

from . import lanes
from .arithmetic import LANES, SMALLEST, F, I, compiled, from_half, nearest, to_half
from .asymmetric import put_bits, put_two_bits
from .lanes import (
    BEST,
    CODES,
    INVERSE,
    KEPT_INVERSE,
    MOST,
    SCALE,
    STEP,
    SUM_LL,
    SUM_XL,
    TRY_SCALE,
    W,
    X,
)


@compiled
def search(n: int, top: int, s: Any) -> None:
    """SCALE of sub-blocks of `n` values with codes -top to top - 1, and where codes come from.

    The first try puts the value of greatest size at -top, eighteen more a little beside; the
    scale that fits the codes best is kept when it explains more.
    """
    lanes.greatest(n, s, MOST)
    for b in range(LANES):
        s[INVERSE, b] = F(-top) / s[MOST, b]
    _encode(n, I(top), s)
    for b in range(LANES):
        is_zero = abs(s[MOST, b]) < SMALLEST
        scale = s[SUM_XL, b] / s[SUM_LL, b] if s[SUM_LL, b] != F(0) else F(0)
        s[SCALE, b] = F(0) if is_zero else scale
        s[BEST, b] = F(np.inf) if is_zero else scale * s[SUM_XL, b]
        s[KEPT_INVERSE, b] = s[INVERSE, b]
    for k in range(-9, 10):
        if k == 0:
            continue
        steps = F(-(F(top) + F(F(0.1) * F(k))))
        for b in range(LANES):
            s[INVERSE, b] = steps / s[MOST, b]
        _encode(n, I(top), s)
        for b in range(LANES):
            up, down = s[SUM_XL, b], s[SUM_LL, b]
            is_better = (down > F(0)) & (up * up > s[BEST, b] * down)
            scale = up / down if is_better else s[SCALE, b]
            s[SCALE, b] = scale
            s[BEST, b] = scale * up if is_better else s[BEST, b]
            s[KEPT_INVERSE, b] = s[INVERSE, b] if is_better else s[KEPT_INVERSE, b]


@compiled
def _encode(n: int, top: Any, s: Any) -> None:
    """Sums over the codes of INVERSE that the scale needs."""
    for b in range(LANES):
        s[SUM_XL, b] = F(0)
        s[SUM_LL, b] = F(0)
    least, most = I(-top), I(top - I(1))
    for i in range(n):
        for b in range(LANES):
            value = s[X + i, b]
            code = F(max(least, min(most, nearest(s[INVERSE, b] * value))))
            s[SUM_XL, b] += s[W + i, b] * value * code
            s[SUM_LL, b] += s[W + i, b] * code * code


@compiled
def descend(n: int, top: int, s: Any) -> None:
    """SCALE and CODES (-top to top - 1) of sub-blocks: one code after another made better.

    A round without a change would not be followed by one with, so every lane may run all five.
    """
    least, most = I(-top), I(top - 1)
    lanes.greatest(n, s, MOST)
    for b in range(LANES):
        s[INVERSE, b] = F(-top) / s[MOST, b]
        s[SUM_XL, b] = F(0)
        s[SUM_LL, b] = F(0)
    for i in range(n):
        for b in range(LANES):
            value = s[X + i, b]
            code = F(max(least, min(most, nearest(s[INVERSE, b] * value))))
            s[CODES + i, b] = code
            s[SUM_XL, b] += s[W + i, b] * value * code
            s[SUM_LL, b] += s[W + i, b] * code * code
    for _ in range(5):
        for i in range(n):
            _better_code(i, least, most, s)
    for b in range(LANES):
        is_zero = abs(s[MOST, b]) < SMALLEST
        scale = s[SUM_XL, b] / s[SUM_LL, b] if s[SUM_LL, b] > F(0) else F(0)
        s[SCALE, b] = F(0) if is_zero else scale
    for i in range(n):
        for b in range(LANES):
            is_zero = abs(s[MOST, b]) < SMALLEST
            s[CODES + i, b] = F(-top) if is_zero else s[CODES + i, b]


@compiled
def _better_code(i: int, least: Any, most: Any, s: Any) -> None:
    """Take value `i` of every sub-block out, round it to what the others say, keep it if better."""
    for b in range(LANES):
        value, old = s[X + i, b], s[CODES + i, b]
        weight = s[W + i, b]
        up, down = s[SUM_XL, b], s[SUM_LL, b]
        without = up - weight * value * old
        below = down - weight * old * old
        new = F(max(least, min(most, nearest(value * below / without))))
        new_up = without + weight * value * new
        new_down = below + weight * new * new
        is_better = (without > F(0)) & (new != old) & (new_down > F(0))
        is_better &= new_up * new_up * down > up * up * new_down
        s[CODES + i, b] = new if is_better else old
        s[SUM_XL, b] = new_up if is_better else up
        s[SUM_LL, b] = new_down if is_better else down


@compiled
def greatest_scale(s: Any, first: int, count: int) -> Any:
    """The first of greatest size among the scales of a super-block, with its sign."""
    most = F(0)
    for b in range(first, first + count):
        most = s[SCALE, b] if abs(s[SCALE, b]) > abs(most) else most
    return most


@compiled
def encode_anew(n: int, top: int, s: Any) -> None:
    """CODES, 0 to 2 * top - 1, of the rounded scales (STEP); where STEP is 0 they stay."""
    least, most = I(-top), I(top - 1)
    for i in range(n):
        for b in range(LANES):
            anew = F(max(least, min(most, nearest(s[X + i, b] / s[STEP, b]))))
            code = anew if s[STEP, b] != F(0) else s[CODES + i, b]
            s[CODES + i, b] = code + F(top)


@compiled
def codes_of_search(n: int, top: int, s: Any) -> None:
    """CODES of the best try of `search`; -top where all values are as good as zero."""
    least, most = I(-top), I(top - 1)
    for i in range(n):
        for b in range(LANES):
            code = F(max(least, min(most, nearest(s[KEPT_INVERSE, b] * s[X + i, b]))))
            s[CODES + i, b] = F(-top) if abs(s[MOST, b]) < SMALLEST else code


@compiled
def q6_k(x: Any, out: Any) -> None:
    """float32 (n * 256,) -> uint8 (n * 210,)."""
    s = lanes.table()
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 16):
        lanes.fill(x, block * 16, 16, s)
        lanes.weigh_by_square(16, s)
        search(16, 32, s)
        finish_q6_k(s, out, block, min(LANES // 16, blocks - block))


@compiled
def finish_q6_k(s: Any, out: Any, block: int, count: int) -> None:
    for j in range(count):
        round_eight_bits(s, 16 * j, out, (block + j) * 210 + 192)
    codes_of_search(16, 32, s)
    encode_anew(16, 32, s)
    for j in range(count):
        if s[TRY_SCALE, 16 * j] == F(0):
            for byte in range(210):
                out[(block + j) * 210 + byte] = np.uint8(0)
        else:
            put_six_bits(s, 16 * j, out, (block + j) * 210)


@compiled
def round_eight_bits(s: Any, first: int, out: Any, place: int) -> None:
    """Of Q6_K: 16 scales and their step; STEP of the lanes. TRY_SCALE is 0 if the block is."""
    most = greatest_scale(s, first, 16)
    s[TRY_SCALE, first] = F(0) if abs(most) < SMALLEST else F(1)
    inverse = F(F(-128) / most)
    d = to_half(F(1) / inverse)
    put_bits(out, place + 16, d)
    for j in range(16):
        byte = I(min(I(127), nearest(inverse * s[SCALE, first + j])) & I(0xFF))
        out[place + j] = np.uint8(byte)
        s[STEP, first + j] = from_half(d) * F(I(I(byte ^ I(0x80)) - I(0x80)))


@compiled
def put_six_bits(s: Any, first: int, out: Any, place: int) -> None:
    """Per 128 values 64 bytes of nibbles, then 32 bytes with two upper bits of four values."""
    for half in range(2):
        for j in range(32):
            upper = I(0)
            for layer in range(4):
                code = I(s[CODES + j % 16, first + 8 * half + 2 * layer + j // 16])
                upper = I(upper | I((code >> I(4)) << I(2 * layer)))
            out[place + 128 + 32 * half + j] = np.uint8(upper)
        for j in range(64):
            lane = first + 8 * half + j // 16
            low, high = I(s[CODES + j % 16, lane]), I(s[CODES + j % 16, lane + 4])
            out[place + 64 * half + j] = np.uint8((low & I(15)) | ((high & I(15)) << I(4)))


@compiled
def q3_k(x: Any, out: Any) -> None:
    """float32 (n * 256,) -> uint8 (n * 110,)."""
    s = lanes.table()
    scales = np.empty(16, np.int32)
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 16):
        lanes.fill(x, block * 16, 16, s)
        lanes.weigh_by_square(16, s)
        descend(16, 4, s)
        count = min(LANES // 16, blocks - block)
        for j in range(count):
            d = round_by_greatest(s, 16 * j, scales)
            put_scales(s, 16 * j, d, scales, out, (block + j) * 110)
        encode_anew(16, 4, s)
        for j in range(count):
            put_mask(s, 16 * j, out, (block + j) * 110)
            put_two_bits(s, 16 * j, out, (block + j) * 110 + 32)


@compiled
def round_by_greatest(s: Any, first: int, scales: Any) -> Any:
    """Of Q3_K: six-bit codes of 16 scales, 0 to 63, and the bits of their step."""
    most = greatest_scale(s, first, 16)
    if most == F(0):
        for j in range(16):
            scales[j] = I(0)
        return I(0)
    inverse = F(F(-32) / most)
    for j in range(16):
        code = I(nearest(inverse * s[SCALE, first + j]) & I(0xFF))  # as int8
        code = I(I(code ^ I(0x80)) - I(0x80))
        scales[j] = I(max(I(-32), min(I(31), code)) + I(32))
    return to_half(F(1) / inverse)


@compiled
def put_scales(s: Any, first: int, d: Any, scales: Any, out: Any, place: int) -> None:
    """Of Q3_K: 12 bytes of six-bit scales and their step; STEP of the lanes."""
    put_bits(out, place + 108, d)
    for j in range(8):
        low, high = scales[j] & I(15), scales[j + 8] & I(15)
        out[place + 96 + j] = np.uint8(low | (high << I(4)))
    for j in range(4):
        byte = I(0)
        for i in range(4):
            byte = I(byte | I((scales[4 * i + j] >> I(4)) << I(2 * i)))
        out[place + 104 + j] = np.uint8(byte)
    for j in range(16):
        s[STEP, first + j] = from_half(d) * F(I(scales[j] - I(32)))


@compiled
def put_mask(s: Any, first: int, out: Any, place: int) -> None:
    """Of Q3_K: 32 bytes, bit i of byte j is the third bit of value 32 i + j."""
    for j in range(32):
        bits = I(0)
        for i in range(8):
            code = I(s[CODES + j % 16, first + 2 * i + j // 16])
            bits = I(bits | I((code >> I(2)) << I(i)))
        out[place + j] = np.uint8(bits)
