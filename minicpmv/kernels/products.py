"""Linear layers with plain weights, by the fastest library that PyTorch has on this processor.

PyTorch gives float32 products to MKL, which leaves the AVX-512 of AMD's processors unused, and
copies the bias into every row of bfloat16 products first. oneDNN, which PyTorch also brings, does
neither: 2.2 times as fast in float32 on Zen 5, from four rows on.

A few rows, as the steps of one answer have them, are computed by our own function where the
library is there: both others arrange the weights anew first, which takes longer than the product.
In bfloat16 it adds in the order of oneDNN: a row gets the same bits alone and among others.
"""

import ctypes
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .build import FunctionByDtype, Library, built
from .dense import pays
from .processor import instruction_sets, vendor

_MIN_ROWS = 4  # for oneDNN
_MOST_ROWS = 12  # for our function: with more, both others are as fast (Zen 5)
_OUTPUTS = 4  # that our function computes at a time
_SIGNATURE = (*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 5, ctypes.c_int)
_few_rows = FunctionByDtype("few_rows", _SIGNATURE)
_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16"))


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `torch.nn.functional.linear` gives, up to rounding.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (..., out_features).
    """
    found = few_rows_linear(x, weight, bias)
    if found is None:
        found = onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias) if found is None else found


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """The same for (rows, in_features), by our function; None for what it does not take.

    Sums are float32. A row's result does not depend on the other rows or the number of threads.
    """
    if x.ndim != 2 or not 0 < len(x) <= _MOST_ROWS or not x.is_cpu or torch.is_grad_enabled():
        return None
    library = built()
    if library is None or not pays(library, x.dtype):
        return None
    function = _few_rows(library).get(x.dtype)
    outputs, inputs = weight.shape
    strides = x.stride(), weight.stride()
    if (
        function is None
        or weight.dtype != x.dtype
        or outputs % _OUTPUTS
        or inputs % 2
        or inputs != x.shape[1]
        or (bias is not None and not (bias.dtype == x.dtype and bias.is_contiguous()))
        or strides[0][1] != 1
        or strides[1][1] != 1
    ):
        return None
    out = torch.empty((len(x), outputs), dtype=x.dtype)
    function(
        x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), out.data_ptr(),
        len(x), inputs, outputs, strides[0][0], strides[1][0], torch.get_num_threads(),
    )  # fmt: skip
    return out


def packed_weight(library: Library, weight: Tensor) -> Tensor | None:
    """A weight (out_features, in_features) once more, as `layers.compute` reads it fastest; None
    where it is to be read as it is. It does not follow what the weight becomes."""
    if weight.dtype != torch.bfloat16 or weight.ndim != 2 or not weight.is_contiguous():
        return None
    outputs, inputs = weight.shape
    size_of = library.function("packed_rows_size", *[ctypes.c_int64] * 2)
    size_of.restype = ctypes.c_int64
    size = size_of(inputs, outputs)
    if not size:
        return None
    packed = torch.empty(size, dtype=weight.dtype)
    pack = library.function("pack_rows_bf16", *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)
    pack(weight.data_ptr(), packed.data_ptr(), inputs, outputs)
    return packed


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """The same by oneDNN; None where PyTorch's choice is to be taken, or records gradients."""
    if (
        x.is_cpu
        and x.dtype == weight.dtype
        and x.numel() >= _MIN_ROWS * x.shape[-1]
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and prefers_onednn(x.dtype, bias is not None)
    ):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return None


@cache
def prefers_onednn(dtype: torch.dtype, has_bias: bool) -> bool:
    """Whether products of oneDNN are faster here than what PyTorch chooses, and it has them."""
    sets = instruction_sets()
    is_faster = (dtype == torch.float32 and vendor() == "AuthenticAMD" and "avx512f" in sets) or (
        dtype == torch.bfloat16 and has_bias and not _BFLOAT16.isdisjoint(sets)
    )
    return (
        is_faster
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
