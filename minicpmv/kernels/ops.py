"""Operations of a decoder layer beside its products, on the CPU compiled and elsewhere in torch.

Each is called thousands of times per second with little work, so the checks are few: what the
compiled function does not take (another device or dtype, gradients, odd strides) goes to torch,
which computes the same up to float32 rounding.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .build import Library, built

_POINTER, _INTEGER, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_SIGNATURES = {
    "rms_norm": (*[_POINTER] * 3, *[_INTEGER] * 3, _FLOAT, _INT),
}


class _Functions:
    """The functions of one library, by dtype."""

    library: Library | None = None
    rms_norm: dict[torch.dtype, Any]


def _compiled() -> type[_Functions] | None:
    library = built()
    if library is None:
        return None
    if library is not _Functions.library:
        for name, arguments in _SIGNATURES.items():
            by_dtype = {
                dtype: library.function(f"{name}_{suffix}", *arguments)
                for dtype, suffix in _SUFFIXES.items()
            }
            setattr(_Functions, name, by_dtype)
        _Functions.library = library
    return _Functions


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x` over the root of its mean square, times `weight`.

    Computed in float32, rounded to the dtype of `x`, then multiplied in that dtype, as
    transformers' LlamaRMSNorm does.

    Args:
        x: (..., hidden); a part of a wider tensor may be passed in two dimensions.
        weight: (hidden,), in the dtype of `x`.
    """
    functions = _compiled()
    if functions is not None:
        function = functions.rms_norm.get(x.dtype)
        width = weight.shape[0]
        if (
            function is not None
            and weight.dtype == x.dtype
            and _is_plain(x)
            and weight.is_contiguous()
            and (x.is_contiguous() or (x.ndim == 2 and x.stride(1) == 1))
        ):
            out = torch.empty(x.shape, dtype=x.dtype)
            rows = x.numel() // width
            stride = x.stride(0) if x.ndim == 2 else width
            function(x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, width, stride, eps,
                     torch.get_num_threads())  # fmt: skip
            return out
    if x.dtype == torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    wide = x.to(torch.float32)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def _is_plain(x: Tensor) -> bool:
    """On the CPU, and nothing that torch follows."""
    return x.is_cpu and not (x.requires_grad and torch.is_grad_enabled())
