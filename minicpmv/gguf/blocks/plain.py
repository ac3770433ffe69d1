"""Q8_0, Q4_0, Q5_0, Q4_1, Q5_1: blocks of 32 with a scale, or a scale and a minimum, no search.

The codes come from the unrounded scale and minimum, the stored ones are rounded after. A scale so
small that its inverse is infinite gives codes of 0.

How many codes a block has is read off the arguments: loops over a number that the compiler does
not know become vectors, while those over 16 are written out value by value.
"""

from typing import Any

import numpy as np

from .arithmetic import F, I, compiled, put_half, size_bits

_BELOW_HALF = F(0.49999997)  # the float32 before 0.5: rounds halves away from zero, and no more


@compiled
def _greatest(x: Any, start: int) -> Any:
    """The first value of greatest size among 32, with its sign; 0 where all are 0 or -0."""
    least = most = x[start]
    for j in range(1, 32):
        value = x[start + j]
        least = value if value < least else least
        most = value if value > most else most
    if most != -least:
        return most if most > -least else least
    for j in range(32):
        if abs(x[start + j]) == most:
            return x[start + j] if most > F(0) else F(0)
    return F(0)


@compiled
def _inverse(d: Any) -> Any:
    """1/d; 0 where that is infinite or there is none."""
    inverse = F(F(1) / d) if d != F(0) else F(0)
    return F(0) if np.isinf(inverse) else inverse


@compiled
def q8_0(x: Any, out: Any) -> None:
    """float32 (n * 32,) -> uint8 (n * 34,)."""
    blocks = len(x) // 32
    size = len(out) // blocks - 2  # 32
    for block in range(blocks):
        start, place = block * 32, block * 34
        most = I(0)
        for j in range(32):
            most = max(most, size_bits(x[start + j]))
        d = F(I(most).view(F) / F(127))
        inverse = _inverse(d)
        put_half(out, place, d)
        for j in range(size):
            value = F(x[start + j] * inverse)
            away = _BELOW_HALF if value >= F(0) else -_BELOW_HALF
            out[place + 2 + j] = np.uint8(I(value + away))


@compiled
def q4_0(x: Any, out: Any) -> None:
    """float32 (n * 32,) -> uint8 (n * 18,)."""
    blocks = len(x) // 32
    half = len(out) // blocks - 2  # 16
    for block in range(blocks):
        start, place = block * 32, block * 18
        d = F(_greatest(x, start) / F(-8))
        inverse = _inverse(d)
        middle = F(0) if inverse == F(0) and d != F(0) else F(8.5)
        put_half(out, place, d)
        for j in range(half):
            low = min(I(15), I(F(x[start + j] * inverse) + middle))
            high = min(I(15), I(F(x[start + 16 + j] * inverse) + middle))
            out[place + 2 + j] = np.uint8(I(low | I(high << I(4))))


@compiled
def q5_0(x: Any, out: Any) -> None:
    """float32 (n * 32,) -> uint8 (n * 22,)."""
    codes = np.empty(32, np.int32)
    blocks = len(x) // 32
    size = len(out) // blocks + 10  # 32
    for block in range(blocks):
        start, place = block * 32, block * 22
        d = F(_greatest(x, start) / F(-16))
        inverse = _inverse(d)
        middle = F(0) if inverse == F(0) and d != F(0) else F(16.5)
        put_half(out, place, d)
        for j in range(size):
            codes[j] = min(I(31), I(F(x[start + j] * inverse) + middle))
        put_five_bits(codes, out, place + 2)


@compiled
def put_five_bits(codes: Any, out: Any, place: int) -> None:
    """32 codes: 4 bytes with bit 4 of each, then 16 bytes of nibbles."""
    for group in range(4):
        upper = I(0)
        for j in range(8):
            upper = I(upper | I(I(codes[group * 8 + j] >> I(4)) << I(j)))
        out[place + group] = np.uint8(upper)
    half = len(codes) // 2
    for j in range(half):
        low, high = I(codes[j] & I(15)), I(codes[16 + j] & I(15))
        out[place + 4 + j] = np.uint8(I(low | I(high << I(4))))


@compiled
def _smallest_and_step(x: Any, start: int, steps: Any) -> Any:
    """The smallest of 32 values, and the range over the number of steps."""
    least = most = x[start]
    for j in range(1, 32):
        value = x[start + j]
        least = value if value < least else least
        most = value if value > most else most
    return least, F(F(most - least) / steps)


@compiled
def q4_1(x: Any, out: Any) -> None:
    """float32 (n * 32,) -> uint8 (n * 20,)."""
    blocks = len(x) // 32
    half = len(out) // blocks - 4  # 16
    for block in range(blocks):
        start, place = block * 32, block * 20
        least, d = _smallest_and_step(x, start, F(15))
        inverse = _inverse(d)
        put_half(out, place, d)
        put_half(out, place + 2, least)
        for j in range(half):
            low = min(I(15), I(F(F(x[start + j] - least) * inverse) + F(0.5)))
            high = min(I(15), I(F(F(x[start + 16 + j] - least) * inverse) + F(0.5)))
            out[place + 4 + j] = np.uint8(I(low | I(high << I(4))))


@compiled
def q5_1(x: Any, out: Any) -> None:
    """float32 (n * 32,) -> uint8 (n * 24,)."""
    codes = np.empty(32, np.int32)
    blocks = len(x) // 32
    size = len(out) // blocks + 8  # 32
    for block in range(blocks):
        start, place = block * 32, block * 24
        least, d = _smallest_and_step(x, start, F(31))
        inverse = _inverse(d)
        put_half(out, place, d)
        put_half(out, place + 2, least)
        for j in range(size):
            codes[j] = I(F(F(x[start + j] - least) * inverse) + F(0.5))
        put_five_bits(codes, out, place + 4)
