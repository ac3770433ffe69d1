"""Operations of a decoder layer beside its products: on the CPU compiled, on CUDA by Triton.

Each is called thousands of times per second with little work, so the checks are few: what the
compiled function does not take (another device or dtype, gradients, odd strides) goes to torch,
which computes the same up to float32 rounding.
"""

import ctypes
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .build import SUFFIXES, Library, are_off, built

_POINTER, _INTEGER, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_PAIRS = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
]
_SIGNATURES = {
    "paged_attention": (*[_POINTER] * 6, *[_INTEGER] * 6, _FLOAT, _INTEGER, _INT),
    "rms_norm": (*[_POINTER] * 3, *[_INTEGER] * 3, _FLOAT, _INT),
    "silu_and_mul": (*[_POINTER] * 3, *[_INTEGER] * 4, _INT),
    "gelu_tanh": (*[_POINTER] * 2, _INTEGER, _INT),
}
_MAX_HEAD_DIM = 256
_DENSE = torch.contiguous_format
_RESULTS = {"paged_attention": _INT}


class _Functions:
    """The functions of one library, by dtype."""

    library: Library | None = None
    paged_attention: dict[torch.dtype, Any]
    rms_norm: dict[torch.dtype, Any]
    silu_and_mul: dict[torch.dtype, Any]
    gelu_tanh: dict[torch.dtype, Any]
    rotate_and_write: dict[tuple[torch.dtype, torch.dtype], Any]


def _compiled() -> type[_Functions] | None:
    library = built()
    if library is None:
        return None
    if library is not _Functions.library:
        for name, arguments in _SIGNATURES.items():
            by_dtype = {
                dtype: library.function(f"{name}_{suffix}", *arguments)
                for dtype, suffix in SUFFIXES.items()
            }
            for function in by_dtype.values():
                function.restype = _RESULTS.get(name)
            setattr(_Functions, name, by_dtype)
        _Functions.rotate_and_write = {
            (dtype, angles): library.function(
                f"rotate_and_write_{SUFFIXES[dtype]}_{SUFFIXES[angles]}",
                *[_POINTER] * 8, *[_INTEGER] * 7, _INT,
            )
            for dtype, angles in _PAIRS
        }  # fmt: skip
        _Functions.library = library
    return _Functions


def triton_kernels() -> ModuleType | None:
    """Those for CUDA; None where torch came without Triton, or kernels are off."""
    return None if are_off() else _imported()


@cache
def _imported() -> ModuleType | None:
    if find_spec("triton") is None:
        return None
    from . import cuda

    return cuda


def _for_cuda(*tensors: Tensor) -> ModuleType | None:
    """The kernels for tensors on CUDA that torch does not follow, with numbers side by side."""
    for x in tensors:
        if not x.is_cuda or x.stride(-1) != 1 or (x.requires_grad and torch.is_grad_enabled()):
            return None
    return triton_kernels()


def paged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scaling: float,
    window: int | None = None,
) -> Tensor:
    """Attention of one new token of each row over keys and values in blocks of 32 tokens.

    Sums are float32. A row's result does not depend on the other rows or on the number of threads.

    Args:
        query: (rows, heads, head_dim).
        keys, values: of one layer, (num_blocks, 32, kv_heads, head_dim), in the dtype of `query`;
            the new token's are written already. `heads` is a multiple of `kv_heads`.
        tables: int32 (rows, blocks), the blocks of each row; what lies behind `lengths` is not
            read, but must be the number of a block.
        lengths: int32 (rows,), tokens of each row with the new one; a row of 0 gives zeros.
        scaling: of the scores.
        window: how many tokens, the new one included, are attended to; None for all.

    Returns:
        (rows, heads, head_dim).
    """
    rows, heads, dim = query.shape
    kernels = _for_cuda(query, keys, values)
    if kernels is not None and query.stride(1) == dim:
        found: Tensor = kernels.paged_attention(
            query, keys, values, tables, lengths, scaling, window
        )
        return found
    functions = _compiled()
    if functions is not None and dim % 8 == 0 and dim <= _MAX_HEAD_DIM:
        function = functions.paged_attention.get(query.dtype)
        if (
            function is not None
            and keys.dtype == query.dtype
            and values.dtype == query.dtype
            and _is_plain(query)
            and query.stride(1) == dim
            and query.stride(2) == 1
            and keys.is_contiguous()
            and values.is_contiguous()
            and tables.is_contiguous()
        ):
            out = torch.empty_like(query, memory_format=_DENSE)
            failed = function(
                query.data_ptr(), keys.data_ptr(), values.data_ptr(), tables.data_ptr(),
                lengths.data_ptr(), out.data_ptr(), query.stride(0), tables.shape[1], rows, heads,
                keys.shape[2], dim, scaling, window or 0, torch.get_num_threads(),
            )  # fmt: skip
            if not failed:
                return out
    return _fallback_attention(query, keys, values, tables, lengths, scaling, window)


def _fallback_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scaling: float,
    window: int | None,
) -> Tensor:
    """The same in torch, on any device, without reading anything back from it."""
    rows, heads, dim = query.shape
    kv_heads = keys.shape[2]
    positions = torch.arange(tables.shape[1] * keys.shape[1], device=query.device)
    visible = positions < lengths[:, None]  # (rows, tokens)
    if window is not None:
        visible &= positions >= lengths[:, None] - window
    gathered = [
        part[tables.long()].flatten(1, 2).transpose(1, 2) for part in (keys, values)
    ]  # (rows, kv_heads, tokens, head_dim)
    # What lies behind a row's tokens was never written, and zero times undefined is undefined.
    gathered[1] = gathered[1].masked_fill(~visible[:, None, :, None], 0)
    grouped = query.unflatten(1, (kv_heads, heads // kv_heads))
    scores = torch.einsum("rkgd,rktd->rkgt", grouped.float() * scaling, gathered[0].float())
    scores = scores.masked_fill(~visible[:, None, None], float("-inf"))
    weights = scores.softmax(-1).masked_fill(~visible[:, None, None], 0)
    result = torch.einsum("rkgt,rktd->rkgd", weights, gathered[1].float())
    return result.reshape(rows, heads, dim).to(query.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x` over the root of its mean square, times `weight`.

    Computed in float32, rounded to the dtype of `x`, then multiplied in that dtype, as
    transformers' LlamaRMSNorm does.

    Args:
        x: (..., hidden); a part of a wider tensor may be passed in two dimensions.
        weight: (hidden,), in the dtype of `x`.
    """
    if (kernels := _for_cuda(x, weight)) is not None:
        found: Tensor = kernels.rms_norm(x, weight, eps)
        return found
    functions = _compiled()
    if functions is not None:
        function = functions.rms_norm.get(x.dtype)
        width = weight.shape[0]
        if (
            function is not None
            and weight.dtype == x.dtype
            and _is_plain(x)
            and weight.is_contiguous()
            and _has_rows(x)
        ):
            out = torch.empty_like(x, memory_format=_DENSE)
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


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, both steps rounded to their dtype.

    Args:
        gate, up: (..., width); parts of a wider tensor may be passed in two dimensions.
    """
    kernels = _for_cuda(gate, up)
    if kernels is not None and gate.ndim == 2 and up.shape == gate.shape:
        found: Tensor = kernels.silu_and_mul(gate, up)
        return found
    functions = _compiled()
    if functions is not None:
        function = functions.silu_and_mul.get(gate.dtype)
        if (
            function is not None
            and up.dtype == gate.dtype
            and up.shape == gate.shape
            and _is_plain(gate)
            and _is_plain(up)
            and _has_rows(gate)
            and _has_rows(up)
        ):
            out = torch.empty_like(gate, memory_format=_DENSE)
            width = gate.shape[-1]
            rows = gate.numel() // width if width else 0
            flat = gate.ndim != 2
            function(
                gate.data_ptr(), up.data_ptr(), out.data_ptr(), rows, width,
                width if flat else gate.stride(0), width if flat else up.stride(0),
                torch.get_num_threads(),
            )  # fmt: skip
            return out
    return F.silu(gate) * up


def gelu_tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """GELU with tanh, `gelu_pytorch_tanh` of configs.

    Args:
        x: of any shape.
        out: where to write, `x` itself for a pass in place; None for a new tensor.
    """
    functions = _compiled()
    if functions is not None:
        function = functions.gelu_tanh.get(x.dtype)
        if function is not None and _is_plain(x) and x.is_contiguous():
            if out is None:
                out = torch.empty_like(x, memory_format=_DENSE)
            if out.is_contiguous() and out.dtype == x.dtype and out.shape == x.shape:
                function(x.data_ptr(), out.data_ptr(), x.numel(), torch.get_num_threads())
                return out
    result = F.gelu(x, approximate="tanh")
    return result if out is None else out.copy_(result)


def rotate_and_write(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_blocks: Tensor,
    value_blocks: Tensor,
    slots: Tensor,
) -> None:
    """Rotate queries and keys by their positions, in place, and put keys and values into blocks.

    Rotation is that of transformers' Llama where `cos` has the dtype of `query`: each product is
    rounded to it. Where `cos` is float32, all is computed in float32 and rounded once.

    Args:
        query: (tokens, heads, head_dim).
        keys, values: (tokens, kv_heads, head_dim).
        cos, sin: (tokens, head_dim).
        key_blocks, value_blocks: of one layer, (num_blocks, block, kv_heads, head_dim).
        slots: int64 (tokens,), block times tokens of a block plus the place in it.
    """
    tokens, heads, dim = query.shape
    kernels = _for_cuda(query, keys, values, cos, sin)
    if kernels is not None and query.stride(1) == keys.stride(1) == values.stride(1) == dim:
        kernels.rotate_and_write(query, keys, values, cos, sin, key_blocks, value_blocks, slots)
        return
    functions = _compiled()
    if functions is not None:
        function = functions.rotate_and_write.get((query.dtype, cos.dtype))
        if (
            function is not None
            and keys.dtype == query.dtype
            and values.dtype == query.dtype
            and key_blocks.dtype == query.dtype
            and _is_plain(query)
            and query.stride(1) == dim
            and keys.stride(1) == dim
            and values.stride(1) == dim
            and query.stride(2) == keys.stride(2) == values.stride(2) == 1
            and cos.is_contiguous()
            and sin.is_contiguous()
            and key_blocks.is_contiguous()
            and value_blocks.is_contiguous()
        ):
            function(
                query.data_ptr(), keys.data_ptr(), values.data_ptr(), cos.data_ptr(),
                sin.data_ptr(), key_blocks.data_ptr(), value_blocks.data_ptr(), slots.data_ptr(),
                tokens, heads, keys.shape[1], dim, query.stride(0), keys.stride(0),
                values.stride(0), torch.get_num_threads(),
            )  # fmt: skip
            return
    for states in (query, keys):
        states.copy_(_rotated(states, cos, sin))
    key_blocks.flatten(0, 1).index_copy_(0, slots, keys)
    value_blocks.flatten(0, 1).index_copy_(0, slots, values)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = states.to(cos.dtype)
    low, high = wide.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return (wide * cos[:, None] + turned * sin[:, None]).to(states.dtype)


def _has_rows(x: Tensor) -> bool:
    """Rows whose numbers lie side by side, at equal distances."""
    return x.is_contiguous() or (x.ndim == 2 and x.stride(1) == 1)


def _is_plain(x: Tensor) -> bool:
    """On the CPU, and nothing that torch follows."""
    return x.is_cpu and not (x.requires_grad and torch.is_grad_enabled())
