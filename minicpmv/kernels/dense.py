"""Attention of many tokens: over all keys (vision towers), or those before them (prompts)."""

import ctypes
from collections.abc import Sequence

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


def attention_of_tokens(
    query: Tensor, keys: Tensor, values: Tensor, head_dim: int, scaling: float
) -> Tensor:
    """The same where the heads of a token lie side by side, as products leave them. Each view that
    is not made spares a turn of the interpreter's lock, which other threads may hold.

    Args:
        query: (batch, queries, heads * head_dim).
        keys, values: (batch, keys, kv_heads * head_dim).

    Returns:
        (batch, queries, heads * head_dim).
    """
    library = built()
    if library is not None and pays(library, query.dtype):
        batch, num_queries, width = query.shape
        num_keys, kv_width = keys.shape[1:]
        if keys.shape == values.shape and keys.shape[0] == batch:
            out = torch.empty(batch, num_queries, width, dtype=query.dtype)
            places = [(x.stride(0), head_dim, x.stride(1)) for x in (query, keys, values, out)]
            sizes = batch, width // head_dim, num_queries, num_keys, head_dim
            if _compute(library, query, keys, values, out, sizes, places, kv_width // head_dim,
                        scaling):  # fmt: skip
                return out
    query, keys, values = (
        x.unflatten(-1, (-1, head_dim)).transpose(1, 2) for x in (query, keys, values)
    )
    found = F.scaled_dot_product_attention(
        query, keys, values, scale=scaling, enable_gqa=query.shape[1] != keys.shape[1]
    )
    return found.transpose(1, 2).flatten(2)


def causal_attention(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float, out: Tensor | None = None
) -> Tensor | None:
    """Attention of the last tokens of a sequence, each to all up to itself; sums are float32.

    Args:
        query: (tokens, heads, head_dim).
        keys, values: (all tokens, kv_heads, head_dim); `heads` is a multiple of `kv_heads`.
        scaling: of the scores, above 0.
        out: where to write, as `query`; None for a new tensor.

    Returns:
        (tokens, heads, head_dim); None where torch is to compute it, see `dense_attention`.
    """
    library = built() if query.is_cpu else None
    if library is None or not pays(library, query.dtype) or keys.shape != values.shape:
        return None
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype)
    (num_queries, heads, dim), (num_keys, kv_heads, _) = query.shape, keys.shape
    places = [(0, x.stride(1), x.stride(0)) for x in (query, keys, values, out)]
    sizes = 1, heads, num_queries, num_keys, dim
    is_done = _compute(library, query, keys, values, out, sizes, places, kv_heads, scaling,
                       num_seen=num_keys - num_queries + 1)  # fmt: skip
    return out if is_done else None


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
    shape = query.shape
    if len(shape) != 4 or keys.shape != values.shape or keys.shape[::3] != shape[::3]:
        return None
    batch, heads, num_queries, dim = query.shape
    out = torch.empty(batch, num_queries, heads, dim, dtype=query.dtype).transpose(1, 2)
    places = [x.stride()[:3] for x in (query, keys, values, out)]
    sizes = batch, heads, num_queries, keys.shape[2], dim
    is_done = _compute(library, query, keys, values, out, sizes, places, keys.shape[1], scaling,
                       num_seen)  # fmt: skip
    return out if is_done else None


def _compute(
    library: Library,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    sizes: tuple[int, ...],
    places: Sequence[tuple[int, ...]],
    kv_heads: int,
    scaling: float,
    num_seen: int = 0,
) -> bool:
    """Whether the compiled function takes it, and has written `out`.

    Args:
        sizes: batch, heads, queries, keys, and channels of a head.
        places: of `query`, `keys`, `values` and `out`: from one row of the batch, head and token
            to the next.
        num_seen: as of `compiled_attention`.
    """
    tensors = (query, keys, values, out)
    dim = sizes[4]
    if (
        query.dtype not in SUFFIXES
        or query.numel() == 0
        or keys.numel() == 0
        or sizes[1] % kv_heads
        or dim % 2
        or dim > _MOST_CHANNELS
        or (sizes[2] < _FEWEST_QUERIES and not num_seen)
        or any(x.dtype != query.dtype or not x.is_cpu or x.stride(-1) != 1 for x in tensors)
        or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    ):
        return False
    strides = [stride for place in places for stride in place]
    numbers = _SIZES(*sizes, *strides, kv_heads, num_seen)
    failed = _functions(library)[query.dtype](
        query.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(),
        ctypes.addressof(numbers), scaling, torch.get_num_threads(),
    )  # fmt: skip
    return not failed
