"""Whether a library that was just loaded computes what torch computes: tiny cases, one by one."""

import ctypes
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .build import Library


def difference(library: "Library") -> str | None:
    """What is wrong, as the object of "the library computes ..."; None where all agrees.

    Raises:
        AttributeError: a function is missing.
    """
    for check in (_rms_norm,):
        wrong = check(library)
        if wrong is not None:
            return wrong
    return None


def _rms_norm(library: "Library") -> str | None:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function = library.function(
        "rms_norm_f32", *[pointer] * 3, *[integer] * 3, ctypes.c_float, ctypes.c_int
    )
    rows, width = 2, 75
    x = torch.arange(rows * width, dtype=torch.float32).sin_().view(rows, width)
    weight = torch.linspace(-1, 2, width)
    out = torch.empty_like(x)
    pointers = [tensor.data_ptr() for tensor in (x, weight, out)]
    function(*pointers, rows, width, width, 1e-6, torch.get_num_threads())
    expected = torch.nn.functional.rms_norm(x, (width,), weight, 1e-6)
    if torch.allclose(out, expected, atol=1e-5, rtol=1e-4):
        return None
    return "another normalisation than torch"
