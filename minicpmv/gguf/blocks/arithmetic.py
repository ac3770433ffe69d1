"""What the quantisers share: float16 by hand, rounding to the nearest integer."""

from typing import Any

import numpy as np

try:
    from numba import njit
except ImportError as error:
    raise ImportError(
        'Writing quantised GGUF files needs numba. pip install "minicpmv[gguf]"'
    ) from error

F = np.float32
I = np.int32  # noqa: E741 - beside F
LANES = 64  # blocks side by side
# Below this the greatest of a block counts as zero, in the searches.
SMALLEST = F(1e-15)
_MIDDLE = F(12582912.0)  # 1.5 * 2**23: adding it rounds a float32 to an integer, half to even
_MANTISSA, _OFFSET = I(0x007FFFFF), I(0x00400000)


def compiled(function: Any) -> Any:
    """As machine code: no other order of sums, no contraction, C's division by zero.

    It is kept beside the package, else in the user's cache folder; where neither can be written it
    is compiled in every process.
    """
    options = {"nogil": True, "boundscheck": False, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return njit(**options)(function)


# numba widens every operation on int32 to int64; I(...) around each keeps the vectors narrow.


@compiled
def nearest(value: Any) -> Any:
    """int32 nearest to a float32, half to even. Beyond 2**22 what ggml's trick gives there."""
    return I(I(F(value + _MIDDLE).view(I) & _MANTISSA) - _OFFSET)


@compiled
def size_bits(value: Any) -> Any:
    """The bits of |value| as int32: they order finite numbers as their sizes do."""
    return I(F(value).view(I) & I(0x7FFFFFFF))


@compiled
def to_half(value: Any) -> Any:
    """The bits of a float32 as float16, half to even: int32 of 16 bits."""
    sign = I(I(F(value).view(I) >> I(16)) & I(0x8000))
    bits = size_bits(value)
    if bits > I(0x7F800000):
        return I(sign | I(0x7E00))
    if bits >= I(0x47800000):  # 65536
        return I(sign | I(0x7C00))
    if bits < I(0x38800000):  # 2**-14: the sum with 0.5 rounds to the steps of subnormals
        return I(sign | I(F(I(bits).view(F) + F(0.5)).view(I) - I(0x3F000000)))
    odd = I(I(bits >> I(13)) & I(1))
    return I(sign | I(I(bits - I(0x38000000) + I(0xFFF) + odd) >> I(13)))


@compiled
def from_half(bits: Any) -> Any:
    """The float32 that finite float16 bits stand for."""
    value = F(I(I(bits & I(0x7FFF)) << I(13)).view(F) * F(2.0**112))
    return F(-value) if bits & I(0x8000) else value


@compiled
def put_half(out: Any, place: int, value: Any) -> Any:
    """Store a float32 as float16; what is stored, as float32."""
    bits = to_half(value)
    out[place] = np.uint8(bits & I(0xFF))
    out[place + 1] = np.uint8(bits >> I(8))
    return from_half(bits)
