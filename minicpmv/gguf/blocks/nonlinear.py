"""IQ4_NL and IQ4_XS: codes are places in a table of sixteen values."""

from typing import Any

import numpy as np

from . import lanes
from .arithmetic import LANES, SMALLEST, F, I, compiled, nearest, put_half
from .lanes import BEST, CODES, INVERSE, MOST, SCALE, STEP, SUM_LL, SUM_XL, W, X
from .symmetric import greatest_scale

VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_MIDDLES = ((VALUES[1:] + VALUES[:-1]) / 2).astype(np.float32)
_TRIES = 7  # to each side


@compiled
def search(s: Any) -> None:
    """SCALE of sub-blocks of 32 values with weights W."""
    lanes.greatest(32, s, MOST)
    for b in range(LANES):
        s[INVERSE, b] = F(1) / F(-s[MOST, b] / F(-127))
    _sum(s)
    for b in range(LANES):
        is_zero = abs(s[MOST, b]) < SMALLEST
        scale = s[SUM_XL, b] / s[SUM_LL, b] if s[SUM_LL, b] > F(0) else F(0)
        s[SCALE, b] = F(0) if is_zero else scale
        s[BEST, b] = F(np.inf) if is_zero else scale * s[SUM_XL, b]
    for k in range(-_TRIES, _TRIES + 1):
        steps = F(k - 127)
        for b in range(LANES):
            s[INVERSE, b] = steps / s[MOST, b]
        _sum(s)
        for b in range(LANES):
            up, down = s[SUM_XL, b], s[SUM_LL, b]
            is_better = (down > F(0)) & (up * up > s[BEST, b] * down)
            scale = up / down if is_better else s[SCALE, b]
            s[SCALE, b] = scale
            s[BEST, b] = scale * up if is_better else s[BEST, b]


@compiled
def _place(value: Any) -> Any:
    """Of the nearest value, as float32; what stands exactly between two goes up."""
    place = F(0)
    for k in range(15):
        place += F(0) if value < _MIDDLES[k] else F(1)
    return place


@compiled
def _sum(s: Any) -> None:
    """Sums over the values nearest to INVERSE times X."""
    for b in range(LANES):
        s[SUM_XL, b] = F(0)
        s[SUM_LL, b] = F(0)
    for i in range(32):
        for b in range(LANES):
            scaled = s[INVERSE, b] * s[X + i, b]
            value = F(-127)
            for k in range(15):
                value += F(0) if scaled < _MIDDLES[k] else VALUES[k + 1] - VALUES[k]
            weighted = s[W + i, b] * value
            s[SUM_XL, b] += weighted * s[X + i, b]
            s[SUM_LL, b] += weighted * value


@compiled
def encode(s: Any) -> None:
    """CODES of the values divided by STEP; of zeros where that is 0."""
    for b in range(LANES):
        s[INVERSE, b] = F(1) / s[STEP, b] if s[STEP, b] != F(0) else F(0)
    for i in range(32):
        for b in range(LANES):
            s[CODES + i, b] = _place(s[INVERSE, b] * s[X + i, b])


@compiled
def put_nibbles(s: Any, lane: int, out: Any, place: int) -> None:
    for j in range(16):
        low, high = I(s[CODES + j, lane]), I(s[CODES + 16 + j, lane])
        out[place + j] = np.uint8(low | (high << I(4)))


@compiled
def iq4_nl(x: Any, out: Any) -> None:
    """float32 (n * 32,) -> uint8 (n * 18,)."""
    s = lanes.table()
    blocks = len(x) // 32
    for block in range(0, blocks, LANES):
        lanes.fill(x, block, 32, s)
        lanes.weigh_by_square(32, s)
        finish_iq4_nl(s, out, block, min(LANES, blocks - block))


@compiled
def finish_iq4_nl(s: Any, out: Any, block: int, count: int) -> None:
    search(s)
    for b in range(LANES):
        s[STEP, b] = s[SCALE, b]
    encode(s)
    for b in range(count):
        put_half(out, (block + b) * 18, s[SCALE, b])
        put_nibbles(s, b, out, (block + b) * 18 + 2)


@compiled
def iq4_xs(x: Any, out: Any) -> None:
    """float32 (n * 256,) -> uint8 (n * 136,)."""
    s = lanes.table()
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 8):
        lanes.fill(x, block * 8, 32, s)
        lanes.weigh_by_square(32, s)
        finish_iq4_xs(s, out, block, min(LANES // 8, blocks - block))


@compiled
def finish_iq4_xs(s: Any, out: Any, block: int, count: int) -> None:
    search(s)
    for j in range(count):
        _round_scales(s, 8 * j, out, (block + j) * 136)
    encode(s)
    for j in range(count):
        for i in range(8):
            put_nibbles(s, 8 * j + i, out, (block + j) * 136 + 8 + 16 * i)


@compiled
def _round_scales(s: Any, first: int, out: Any, place: int) -> None:
    """Step, upper and lower bits of eight scales; STEP of the lanes, of the step unrounded."""
    d = F(-greatest_scale(s, first, 8) / F(32))
    inverse = F(F(1) / d) if d != F(0) else F(0)
    put_half(out, place, d)
    upper, lower = I(0), I(0)
    for i in range(8):
        code = max(I(-32), min(I(31), nearest(inverse * s[SCALE, first + i])))
        s[STEP, first + i] = d * F(code)
        stored = I(code + I(32))
        upper = I(upper | I((stored >> I(4)) << I(2 * i)))
        lower = I(lower | I((stored & I(15)) << I(4 * i)))
    out[place + 2] = np.uint8(upper & I(0xFF))
    out[place + 3] = np.uint8((upper >> I(8)) & I(0xFF))
    for i in range(4):
        out[place + 4 + i] = np.uint8((lower >> I(8 * i)) & I(0xFF))
