"""Attention of many tokens: over all keys (vision towers), or those before them (prompts)."""

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from .build import SUFFIXES, FunctionByDtype, Library, built

_POINTER, _SIZES = ctypes.c_void_p, ctypes.c_int64 * 19
_SIGNATURE = (*[_POINTER] * 5, ctypes.c_float, ctypes.c_int)
_functions = FunctionByDtype("dense_attention", _SIGNATURE, ctypes.c_int)
_MOST_CHANNELS = 256
# Fewer scores than this are not worth packing the keys.
_FEWEST_QUERIES = 8


def dense_attention(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """What `scaled_dot_product_attention` gives without a mask; sums are float32.

    Compiled where that is faster than torch, measured with heads of 72: with AVX-512 twice as fast
    in float32, and 3.5 times in bfloat16 where the processor multiplies it. With AVX2 torch is as
    fast, and with AMX faster in bfloat16.

    Args:
        query: (batch, heads, queries, head_dim).
        keys, values: (batch, heads, keys, head_dim).
        scaling: of the scores, above 0.

    Returns:
        (batch, heads, queries, head_dim).
    """
    library = built()
    if library is not None and pays(library, query.dtype):
        result = compiled_attention(library, query, keys, values, scaling)
        if result is not None:
            return result
    return F.scaled_dot_product_attention(query, keys, values, scale=scaling)


def causal_attention(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor | None:
    """Attention of the last tokens of a sequence, each to all up to itself; sums are float32.

    Args:
        query: (tokens, heads, head_dim).
        keys, values: (all tokens, kv_heads, head_dim); `heads` is a multiple of `kv_heads`.
        scaling: of the scores, above 0.

    Returns:
        (tokens, heads, head_dim); None where torch is to compute it, see `dense_attention`.
    """
    library = built() if query.is_cpu else None
    if library is None or not pays(library, query.dtype):
        return None
    num_seen = len(keys) - len(query) + 1
    query, keys, values = (x.transpose(0, 1)[None] for x in (query, keys, values))
    found = compiled_attention(library, query, keys, values, scaling, num_seen)
    return None if found is None else found[0].transpose(0, 1)


def pays(library: Library, dtype: torch.dtype) -> bool:
    """Whether the compiled function is faster than torch on this processor."""
    has_amx = dtype == torch.bfloat16 and "amx_bf16" in library.target
    return "avx512f" in library.target and not has_amx


def compiled_attention(
    library: Library,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float,
    num_seen: int = 0,
) -> Tensor | None:
    """The same by a compiled library; None for what it does not take.

    Args:
        num_seen: keys that the first query attends to, each next one to one more; 0: all to all.
    """
    inputs = (query, keys, values)
    if query.ndim != 4 or query.dtype not in SUFFIXES or query.numel() == 0 or keys.numel() == 0:
        return None
    batch, heads, num_queries, dim = query.shape
    if (
        keys.shape != values.shape
        or keys.shape[0] != batch
        or heads % keys.shape[1]
        or keys.shape[3] != dim
        or dim % 2
        or dim > _MOST_CHANNELS
        or num_queries < _FEWEST_QUERIES
        or any(x.dtype != query.dtype or not x.is_cpu or x.stride(3) != 1 for x in inputs)
        or (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))
    ):
        return None
    out = torch.empty(batch, num_queries, heads, dim, dtype=query.dtype).transpose(1, 2)
    strides = [stride for x in (*inputs, out) for stride in x.stride()[:3]]
    sizes = _SIZES(batch, heads, num_queries, keys.shape[2], dim, *strides, keys.shape[1], num_seen)
    failed = _functions(library)[query.dtype](
        query.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(),
        ctypes.addressof(sizes), scaling, torch.get_num_threads(),
    )  # fmt: skip
    return None if failed else out
