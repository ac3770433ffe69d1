"""Linear layers with plain weights, by the fastest library that PyTorch has on this processor.

PyTorch gives float32 products to MKL, which leaves the AVX-512 of AMD's processors unused, and
copies the bias into every row of bfloat16 products first. oneDNN, which PyTorch also brings, does
neither: 2.2 times as fast in float32 on Zen 5, from four rows on.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .processor import instruction_sets, vendor

_MIN_ROWS = 4
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
    found = onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias) if found is None else found


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
