"""Products of activations with packed weights.

One meaning for every processor: the activations of a row are rounded to int8 in groups of 32 with
the scale `max|x| / 127` (as llama.cpp's Q8_0), the integers of a group are multiplied exactly, and
the sums of the groups are added in float32. A row with an infinite or undefined activation gives
an undefined row, so that a check for finite results sees it.
"""

import ctypes
import platform
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocked import best_way, blocked_linear
from .build import SUFFIXES, FunctionByDtype, Library, built
from .packing import GROUP, PackedWeight, dequantize

_SMALLEST = 2.0**-100  # a group whose largest activation is below counts as zero
_BLOCK_WEIGHTS = 1 << 20  # weights of one block in float32: 4 MB
_MOST_PLAIN_ROWS = 8
_POINTER, _INTEGER, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURE = (
    *(_POINTER, _INTEGER, _INTEGER, _INTEGER),  # x, its stride, rows, in_features
    *(_POINTER, _INT, _INTEGER, _POINTER),  # packed weight, bits, out_features, bias
    *(_POINTER, _INTEGER, _INT),  # result, its stride, threads
)
_functions = FunctionByDtype("packed_linear", _SIGNATURE, _INT)


def packed_linear(x: Tensor, packed: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """The linear layer with a packed weight.

    Args:
        x: (..., in_features), float32, bfloat16 or float16.
        bias: (out_features,); added in float32.

    Returns:
        (..., out_features) in the dtype of `x`.

    Raises:
        ValueError: the last axis of `x` is not the layer's width.
    """
    if x.shape[-1] != packed.in_features:
        raise ValueError(
            f"x has {x.shape[-1]} features and the packed weight takes {packed.in_features}."
        )
    rows = x.reshape(-1, packed.in_features)
    library = built()
    result = None if library is None else compiled_linear(library, rows, packed, bias)
    if result is None:
        result = fallback_linear(rows, packed, bias)
    return result.view(*x.shape[:-1], packed.out_features)


def compiled_linear(
    library: Library, x: Tensor, packed: PackedWeight, bias: Tensor | None = None
) -> Tensor | None:
    """The same by a compiled library; None for what it does not take: gradients, other devices."""
    if not (x.is_cpu and packed.data.is_cpu) or (x.requires_grad and torch.is_grad_enabled()):
        return None
    if x.shape[0] > _MOST_PLAIN_ROWS and not _has_vectors(library):
        return None  # torch's own products are faster than plain C++
    if x.dtype not in SUFFIXES:
        wide = compiled_linear(library, x.to(torch.float32), packed, bias)
        return None if wide is None else wide.to(x.dtype)
    if x.stride(1) != 1:
        x = x.contiguous()
    if bias is not None:
        bias = bias.detach().to(torch.float32).contiguous()
    way = best_way(library, packed, x.shape[0])
    if way is not None:
        kernel = partial(kernel_linear, library, packed=packed, bias=bias)
        return blocked_linear(library, x, packed, bias, way, kernel)
    return kernel_linear(library, x, packed, bias)


def kernel_linear(
    library: Library, x: Tensor, packed: PackedWeight, bias: Tensor | None = None
) -> Tensor:
    """The compiled kernel; rows of `x` are contiguous and the bias is float32."""
    result = torch.empty(x.shape[0], packed.out_features, dtype=x.dtype)
    failed = _functions(library)[x.dtype](
        x.data_ptr(), x.stride(0), x.shape[0], packed.in_features, packed.data.data_ptr(),
        packed.bits, packed.out_features, None if bias is None else bias.data_ptr(),
        result.data_ptr(), result.stride(0), torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError(
            f"No memory for {x.shape[0]} x {x.shape[1]} rounded activations. Use smaller pieces."
        )
    return result


def _has_vectors(library: Library) -> bool:
    """Whether the library was compiled for a processor that the kernel has vectors for."""
    return "avx2" in library.target or platform.machine().lower() in ("aarch64", "arm64")


def fallback_linear(x: Tensor, packed: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """The same in torch, a block of weights at a time: (n, in_features) -> (n, out_features)."""
    rounded = round_activations(x)
    result = torch.empty(x.shape[0], packed.out_features, dtype=x.dtype, device=x.device)
    step = max(1, _BLOCK_WEIGHTS // packed.in_features)
    for start in range(0, packed.out_features, step):
        end = min(start + step, packed.out_features)
        part = None if bias is None else bias[start:end].to(torch.float32)
        result[:, start:end] = F.linear(rounded, dequantize(packed, start, end), part)
    return result


def round_activations(x: Tensor) -> Tensor:
    """What the products see of activations: multiples of their group's scale, in float32."""
    padding = -x.shape[1] % GROUP
    groups = F.pad(x.to(torch.float32), (0, padding)).unflatten(1, (-1, GROUP))
    largest = groups.abs().amax(dim=2, keepdim=True)  # (n, groups, 1)
    zero = largest < _SMALLEST
    # 127.0 / tensor would round twice.
    inverse = torch.where(zero, 0.0, torch.full_like(largest, 127.0) / largest)
    scale = torch.where(zero, 0.0, largest / 127.0)
    scale = torch.where(largest.isfinite(), scale, torch.nan)
    rounded = (groups * inverse).round_() * scale
    return rounded.flatten(1)[:, : x.shape[1]]
