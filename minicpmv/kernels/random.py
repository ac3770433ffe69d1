"""Random numbers of a generator of torch, of which few are wanted."""

import ctypes
from functools import cache

import torch

from .build import Library, built

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64
# The state that a generator of the CPU gives and takes: seed, `left`, a flag, `next`, 624 words of
# 8 bytes, and what normal numbers need.
_NUM_BYTES, _LEFT, _NEXT, _WORDS = 5056, 8, 16, 24


def random_bits(generator: torch.Generator, num: int, places: torch.Tensor) -> torch.Tensor:
    """`torch.empty(num, dtype=torch.long).random_(generator=generator)[places]`, sooner where the
    compiled kernels are there.

    Args:
        generator: of the CPU; it moves on by `num` numbers. No other thread uses it.
        places: int64, ascending.
    """
    library = built()
    if library is not None and _knows(library):
        return _passed_over(library, generator, num, places)
    return _all(generator, num)[places]


def _all(generator: torch.Generator, num: int) -> torch.Tensor:
    return torch.empty(num, dtype=torch.long).random_(generator=generator)


def _passed_over(
    library: Library, generator: torch.Generator, num: int, places: torch.Tensor
) -> torch.Tensor:
    function = library.function(
        "random_bits", *[_POINTER] * 3, _INTEGER, _POINTER, _INTEGER, _POINTER
    )
    state = generator.get_state()
    places = places.contiguous()
    bits = torch.empty_like(places)
    at = state.data_ptr()
    function(
        at + _WORDS, at + _LEFT, at + _NEXT, num, places.data_ptr(), len(places), bits.data_ptr()
    )
    generator.set_state(state)
    return bits & torch.iinfo(torch.long).max


@cache
def _knows(library: Library) -> bool:
    """Whether torch's generator is the one that is compiled."""
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    if one.get_state().numel() != _NUM_BYTES:
        return False
    places = torch.arange(0, 1000, 7)
    for _ in range(2):
        if not torch.equal(_passed_over(library, one, 1000, places), _all(other, 1000)[places]):
            return False
    return torch.equal(one.get_state(), other.get_state())
