"""All block types with an importance of the columns, from an importance matrix.

Errors count by the importance of their column, mostly times the root of the mean square plus the
value's own; and the scales of a super-block are searched for, too, by the weights under them.
"""

from typing import Any

import numpy as np

from . import asymmetric, lanes, nonlinear, symmetric
from .arithmetic import LANES, SMALLEST, F, I, compiled, nearest, put_half, to_half
from .lanes import CODES, OFFSET, SCALE, STEP, SUM_W, W, X
from .plain import put_five_bits


@compiled
def _spreads(x: Any, group: int, factor: Any) -> Any:
    """factor times the mean square of every `group` values in a row."""
    found = np.empty(len(x) // group, np.float32)
    for place in range(len(found)):
        total = F(0)
        for i in range(group):
            value = x[place * group + i]
            total += value * value
        found[place] = factor * total / F(group)
    return found


@compiled
def _weigh(importance: Any, spreads: Any, group: int, first: int, n: int, s: Any) -> None:
    """W of the sub-blocks from `first` on: importance times sqrt(spread + x * x)."""
    for b in range(LANES):
        start = (first + b) * n
        s[STEP, b] = spreads[start // group] if start // group < len(spreads) else F(0)
    _weigh_alone(importance, first, n, s)
    for i in range(n):
        for b in range(LANES):
            value = s[X + i, b]
            s[W + i, b] *= np.sqrt(s[STEP, b] + value * value)


@compiled
def _weigh_alone(importance: Any, first: int, n: int, s: Any) -> None:
    for b in range(LANES):
        column = (first + b) * n % len(importance)
        for i in range(n):
            s[W + i, b] = importance[column + i]


@compiled
def _search_offsets(n: int, top: int, s: Any) -> None:
    asymmetric.search(n, top, F(-0.9), F(0.05), 37, True, True, s)


@compiled
def scales_by_weight(values: Any, weights: Any, top: int, codes: Any) -> Any:
    """Codes 0 to `top` of scales that are not negative, and the step that fits them best.

    Codes are bytes: a negative number wraps around, as in ggml.
    """
    count = len(values)
    most = F(0)
    for i in range(count):
        most = max(most, values[i])
    if most < SMALLEST:
        codes[:] = I(0)
        return F(0)
    inverse = F(F(top) / most)
    step, least = F(F(1) / inverse), F(0)
    for i in range(count):
        off = values[i] - step * F(I(nearest(inverse * values[i]) & I(0xFF)))
        least += weights[i] * off * off
    for k in range(-4, 5):
        if k == 0:
            continue
        tried = F(F(F(F(0.1) * F(k)) + F(top)) / most)
        step, error = F(F(1) / tried), F(0)
        for i in range(count):
            off = values[i] - step * F(min(I(top), nearest(tried * values[i])))
            error += weights[i] * off * off
        if error < least:
            least = error
            inverse = tried
    up, down = F(0), F(0)
    for i in range(count):
        code = min(I(top), nearest(inverse * values[i]))
        codes[i] = I(code & I(0xFF))
        up += weights[i] * values[i] * F(code)
        down += weights[i] * F(code) * F(code)
    up, down = _descend(values, weights, I(top), codes, up, down)
    return F(up / down) if down > F(0) else F(0)


@compiled
def _descend(values: Any, weights: Any, top: Any, codes: Any, up: Any, down: Any) -> Any:
    """One code after another made better, five rounds; the sums that they give."""
    for _ in range(5):
        for i in range(len(values)):
            weight, value, old = weights[i], values[i], F(codes[i])
            without = F(up - weight * value * old)
            below = F(down - weight * old * old)
            if not (without > F(0) and below > F(0)):
                continue
            new = min(top, nearest(value * below / without))
            if new == codes[i]:
                continue
            without += weight * value * F(new)
            below += weight * F(new) * F(new)
            if without * without * down > up * up * below:
                codes[i] = I(new & I(0xFF))
                up, down = without, below
    return up, down


@compiled
def signed_scales_by_weight(values: Any, weights: Any, codes: Any) -> Any:
    """Codes 0 to 63, which stand for -32 to 31, of signed scales, and the step that fits best."""
    count = len(values)
    most = F(0)
    for i in range(count):
        most = values[i] if abs(values[i]) > abs(most) else most
    if abs(most) < SMALLEST:
        codes[:] = I(0)
        return F(0)
    kept, scale, best = F(0), F(0), F(0)
    for number in range(-10, 10):  # the first is the plain one, then -9 to 9 without 0
        if number == 0:
            continue
        k = 0 if number == -10 else number
        inverse = F(F(-(F(32) + F(F(0.1) * F(k)))) / most)
        up, down = F(0), F(0)
        for i in range(count):
            code = F(max(I(-32), min(I(31), nearest(inverse * values[i]))))
            up += weights[i] * values[i] * code
            down += weights[i] * code * code
        if number == -10:
            scale = F(up / down) if down != F(0) else F(0)
            best, kept = F(scale * up), inverse
        elif down > F(0) and up * up > best * down:
            scale = F(up / down)
            best, kept = F(scale * up), inverse
    for i in range(count):
        codes[i] = I(I(32) + max(I(-32), min(I(31), nearest(kept * values[i]))))
    return scale


@compiled
def q4_0(x: Any, importance: Any, out: Any) -> None:
    _signed(x, importance, out, 8, 18)


@compiled
def q5_0(x: Any, importance: Any, out: Any) -> None:
    _signed(x, importance, out, 16, 22)


@compiled
def _signed(x: Any, importance: Any, out: Any, top: int, size: int) -> None:
    s = lanes.table()
    codes = np.empty(32, np.int32)
    width = len(importance)
    spreads = _spreads(x, width, F(1))
    blocks = len(x) // 32
    for block in range(0, blocks, LANES):
        lanes.fill(x, block, 32, s)
        _weigh(importance, spreads, width, block, 32, s)
        symmetric.search(32, top, s)
        symmetric.codes_of_search(32, top, s)
        for b in range(min(LANES, blocks - block)):
            place = (block + b) * size
            put_half(out, place, s[SCALE, b])
            for i in range(32):
                codes[i] = I(s[CODES + i, b]) + I(top)
            _put_codes(codes, out, place + 2, top == 16)


@compiled
def _put_codes(codes: Any, out: Any, place: int, five_bits: bool) -> None:
    if five_bits:
        put_five_bits(codes, out, place)
        return
    for j in range(16):
        out[place + j] = np.uint8(codes[j] | I(codes[16 + j] << I(4)))


@compiled
def q4_1(x: Any, importance: Any, out: Any) -> None:
    _offset(x, importance, out, 15, 20)


@compiled
def q5_1(x: Any, importance: Any, out: Any) -> None:
    _offset(x, importance, out, 31, 24)


@compiled
def _offset(x: Any, importance: Any, out: Any, top: int, size: int) -> None:
    s = lanes.table()
    codes = np.empty(32, np.int32)
    width = len(importance)
    spreads = _spreads(x, width, F(1))
    blocks = len(x) // 32
    for block in range(0, blocks, LANES):
        lanes.fill(x, block, 32, s)
        _weigh(importance, spreads, width, block, 32, s)
        _search_offsets(32, top, s)
        s[STEP] = F(0)
        asymmetric.encode_anew(32, top, True, s)
        for b in range(min(LANES, blocks - block)):
            place = (block + b) * size
            put_half(out, place, s[SCALE, b])
            put_half(out, place + 2, -s[OFFSET, b])
            for i in range(32):
                codes[i] = I(s[CODES + i, b])
            _put_codes(codes, out, place + 4, top == 31)


@compiled
def q4_k(x: Any, importance: Any, out: Any) -> None:
    _super(x, importance, out, 15, 144)


@compiled
def q5_k(x: Any, importance: Any, out: Any) -> None:
    _super(x, importance, out, 31, 176)


@compiled
def _super(x: Any, importance: Any, out: Any, top: int, size: int) -> None:
    s = lanes.table()
    scales, offsets = np.empty(8, np.int32), np.empty(8, np.int32)
    spreads = _spreads(x, 256, F(2))
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 8):
        lanes.fill(x, block * 8, 32, s)
        _weigh(importance, spreads, 256, block * 8, 32, s)
        _search_offsets(32, top, s)
        count = min(LANES // 8, blocks - block)
        for j in range(count):
            part = slice(8 * j, 8 * j + 8)
            d = to_half(scales_by_weight(s[SCALE, part], s[SUM_W, part], 63, scales))
            dmin = to_half(scales_by_weight(s[OFFSET, part], s[SUM_W, part], 63, offsets))
            if top == 31:
                asymmetric.limit(scales)
                asymmetric.limit(offsets)
            place = (block + j) * size
            asymmetric.put_six_bits(s, 8 * j, d, dmin, scales, offsets, out, place)
        asymmetric.encode_anew(32, top, True, s)
        for j in range(count):
            place = (block + j) * size + 16
            if top == 31:
                asymmetric.put_fifth_bits(s, 8 * j, out, place)
                place += 32
            asymmetric.put_nibbles(s, 8 * j, out, place)


@compiled
def q2_k(x: Any, importance: Any, out: Any) -> None:
    s = lanes.table()
    scales, offsets = np.empty(16, np.int32), np.empty(16, np.int32)
    spreads = _spreads(x, 256, F(1))
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 16):
        lanes.fill(x, block * 16, 16, s)
        _weigh(importance, spreads, 256, block * 16, 16, s)
        _search_offsets(16, 3, s)
        count = min(LANES // 16, blocks - block)
        for j in range(count):
            part = slice(16 * j, 16 * j + 16)
            d = to_half(scales_by_weight(s[SCALE, part], s[SUM_W, part], 15, scales))
            dmin = to_half(scales_by_weight(s[OFFSET, part], s[SUM_W, part], 15, offsets))
            place = (block + j) * 84
            asymmetric.put_four_bits(s, 16 * j, d, dmin, scales, offsets, out, place)
        asymmetric.encode_anew(16, 3, True, s)
        for j in range(count):
            asymmetric.put_two_bits(s, 16 * j, out, (block + j) * 84 + 16)


@compiled
def q3_k(x: Any, importance: Any, out: Any) -> None:
    s = lanes.table()
    scales = np.empty(16, np.int32)
    spreads = _spreads(x, 256, F(2))
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 16):
        lanes.fill(x, block * 16, 16, s)
        _weigh(importance, spreads, 256, block * 16, 16, s)
        _sum_weights(16, s)
        symmetric.search(16, 4, s)
        count = min(LANES // 16, blocks - block)
        for j in range(count):
            part = slice(16 * j, 16 * j + 16)
            d = to_half(signed_scales_by_weight(s[SCALE, part], s[SUM_W, part], scales))
            symmetric.put_scales(s, 16 * j, d, scales, out, (block + j) * 110)
        symmetric.codes_of_search(16, 4, s)
        symmetric.encode_anew(16, 4, s)
        for j in range(count):
            symmetric.put_mask(s, 16 * j, out, (block + j) * 110)
            asymmetric.put_two_bits(s, 16 * j, out, (block + j) * 110 + 32)


@compiled
def _sum_weights(n: int, s: Any) -> None:
    for b in range(LANES):
        s[SUM_W, b] = F(0)
    for i in range(n):
        for b in range(LANES):
            s[SUM_W, b] += s[W + i, b]


@compiled
def q6_k(x: Any, importance: Any, out: Any) -> None:
    s = lanes.table()
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 16):
        lanes.fill(x, block * 16, 16, s)
        _weigh_alone(importance, block * 16, 16, s)
        symmetric.search(16, 32, s)
        symmetric.finish_q6_k(s, out, block, min(LANES // 16, blocks - block))


@compiled
def iq4_nl(x: Any, importance: Any, out: Any) -> None:
    s = lanes.table()
    spreads = _spreads(x, 32, F(2))
    blocks = len(x) // 32
    for block in range(0, blocks, LANES):
        lanes.fill(x, block, 32, s)
        _weigh(importance, spreads, 32, block, 32, s)
        nonlinear.finish_iq4_nl(s, out, block, min(LANES, blocks - block))


@compiled
def iq4_xs(x: Any, importance: Any, out: Any) -> None:
    s = lanes.table()
    spreads = _spreads(x, 256, F(2))
    blocks = len(x) // 256
    for block in range(0, blocks, LANES // 8):
        lanes.fill(x, block * 8, 32, s)
        _weigh(importance, spreads, 256, block * 8, 32, s)
        nonlinear.finish_iq4_xs(s, out, block, min(LANES // 8, blocks - block))
