"""The operations of a decoder layer on CUDA, by Triton: one kernel for each, in place of a dozen.

A step of one token per sequence is mostly the starting of small kernels. Rounding is that of
`ops.py`. Triton comes with the CUDA builds of torch; this module is imported only there.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 1024  # numbers of a program of `silu_and_mul`
_LEAST_TOKENS = 64  # that a part of a sequence has, where its attention is divided
_PROGRAMS = 512  # as many keep a large device busy


@triton.jit
def _rms_norm(x, weight, out, stride, width, eps, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, SIZE)
    is_real = places < width
    wide = tl.load(x + row * stride + places, mask=is_real, other=0.0).to(tl.float32)
    scale = tl.math.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
    kind = out.dtype.element_ty
    normal = (wide * scale).to(kind).to(tl.float32)
    factor = tl.load(weight + places, mask=is_real, other=0.0).to(tl.float32)
    tl.store(out + row * width + places, (normal * factor).to(kind), mask=is_real)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`ops.rms_norm` of rows (..., hidden)."""
    width = x.shape[-1]
    rows = x if x.ndim == 2 and x.stride(1) == 1 else x.reshape(-1, width).contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if len(rows):
        size = triton.next_power_of_2(width)
        _rms_norm[(len(rows),)](
            rows, weight, out, rows.stride(0), width, eps, SIZE=size, num_warps=_warps(size)
        )
    return out


@triton.jit
def _silu_and_mul(gate, up, out, gate_stride, up_stride, width, CHUNK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    is_real = places < width
    kind = out.dtype.element_ty
    wide = tl.load(gate + row * gate_stride + places, mask=is_real, other=0.0).to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(kind).to(tl.float32)
    factor = tl.load(up + row * up_stride + places, mask=is_real, other=0.0).to(tl.float32)
    tl.store(out + row * width + places, (silu * factor).to(kind), mask=is_real)


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """`ops.silu_and_mul` of (rows, width)."""
    rows, width = gate.shape
    out = torch.empty((rows, width), dtype=gate.dtype, device=gate.device)
    if rows:
        grid = (rows, triton.cdiv(width, _CHUNK))
        _silu_and_mul[grid](gate, up, out, gate.stride(0), up.stride(0), width, CHUNK=_CHUNK)
    return out


@triton.jit
def _turned(x, places, cos, sin, is_real, half, kind: tl.constexpr, angle: tl.constexpr):
    """Both halves of a head, rotated; `angle` is the dtype that products are rounded to."""
    low = tl.load(x + places, mask=is_real, other=0.0).to(tl.float32)
    high = tl.load(x + half + places, mask=is_real, other=0.0).to(tl.float32)
    cos_low = tl.load(cos + places, mask=is_real, other=0.0).to(tl.float32)
    cos_high = tl.load(cos + half + places, mask=is_real, other=0.0).to(tl.float32)
    sin_low = tl.load(sin + places, mask=is_real, other=0.0).to(tl.float32)
    sin_high = tl.load(sin + half + places, mask=is_real, other=0.0).to(tl.float32)
    first = (low * cos_low).to(angle).to(tl.float32) - (high * sin_low).to(angle).to(tl.float32)
    second = (high * cos_high).to(angle).to(tl.float32) + (low * sin_high).to(angle).to(tl.float32)
    return first.to(angle).to(kind), second.to(angle).to(kind)


@triton.jit
def _rotate_and_write(
    query, keys, values, cos, sin, key_blocks, value_blocks, slots,
    query_stride, key_stride, value_stride, heads, kv_heads, dim, half, SIZE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    places = tl.arange(0, SIZE)
    is_real = places < half
    kind = query.dtype.element_ty
    angle = cos.dtype.element_ty
    cos += token * dim
    sin += token * dim
    if head < heads:
        x = query + token * query_stride + head * dim
        first, second = _turned(x, places, cos, sin, is_real, half, kind, angle)
        tl.store(x + places, first, mask=is_real)
        tl.store(x + half + places, second, mask=is_real)
    else:
        head -= heads
        x = keys + token * key_stride + head * dim
        place = (tl.load(slots + token) * kv_heads + head) * dim
        first, second = _turned(x, places, cos, sin, is_real, half, kind, angle)
        tl.store(x + places, first, mask=is_real)
        tl.store(x + half + places, second, mask=is_real)
        tl.store(key_blocks + place + places, first, mask=is_real)
        tl.store(key_blocks + place + half + places, second, mask=is_real)
        value = values + token * value_stride + head * dim
        low = tl.load(value + places, mask=is_real)
        high = tl.load(value + half + places, mask=is_real)
        tl.store(value_blocks + place + places, low, mask=is_real)
        tl.store(value_blocks + place + half + places, high, mask=is_real)


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
    """`ops.rotate_and_write`."""
    tokens, heads, dim = query.shape
    kv_heads = keys.shape[1]
    if tokens:
        _rotate_and_write[(tokens, heads + kv_heads)](
            query, keys, values, cos, sin, key_blocks, value_blocks, slots,
            query.stride(0), keys.stride(0), values.stride(0), heads, kv_heads, dim, dim // 2,
            SIZE=triton.next_power_of_2(dim // 2), num_warps=1,
        )  # fmt: skip


@triton.jit
def _attend_part(
    query, keys, values, tables, lengths, sums, tops, totals,
    query_stride, width, heads, kv_heads, dim, scaling, window, part_blocks, parts,
    GROUP: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Attention of the heads that share keys, to some of the blocks of their row.

    Written are the weighted sum of values, the largest score and the sum of weights.
    """
    row, kv_head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    first = 0
    if window > 0:
        first = tl.maximum(0, length - window)
    begin = part * part_blocks
    end = tl.minimum(begin + part_blocks, tl.cdiv(length, BLOCK))
    begin = tl.maximum(begin, first // BLOCK)

    members, places, dims = tl.arange(0, ROWS), tl.arange(0, BLOCK), tl.arange(0, DIM)
    is_member, is_dim = members < GROUP, dims < dim
    own = query + row * query_stride + (kv_head * GROUP + members[:, None]) * dim + dims[None, :]
    asked = tl.load(own, mask=is_member[:, None] & is_dim[None, :], other=0.0)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, DIM), tl.float32)
    for number in range(begin, end):
        block = tl.load(tables + row * width + number).to(tl.int64)
        tokens = number * BLOCK + places
        is_visible = (tokens < length) & (tokens >= first)
        offsets = ((block * BLOCK + places[:, None]) * kv_heads + kv_head) * dim + dims[None, :]
        is_read = is_visible[:, None] & is_dim[None, :]
        key = tl.load(keys + offsets, mask=is_read, other=0.0)
        value = tl.load(values + offsets, mask=is_read, other=0.0)
        scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
        scores = tl.where(is_visible[None, :], scores, float("-inf"))
        higher = tl.maximum(largest, tl.max(scores, axis=1))  # finite: a block has a visible token
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(largest - higher)
        total = total * fade + tl.sum(weights, axis=1)
        summed = summed * fade[:, None]
        summed += tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        largest = higher
    place = (row * heads + kv_head * GROUP + members) * parts + part
    tl.store(tops + place, largest, mask=is_member)
    tl.store(totals + place, total, mask=is_member)
    target = sums + place[:, None] * dim + dims[None, :]
    tl.store(target, summed, mask=is_member[:, None] & is_dim[None, :])


@triton.jit
def _join_parts(
    sums, tops, totals, out, dim, parts, PARTS: tl.constexpr, DIM: tl.constexpr
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    numbers, dims = tl.arange(0, PARTS), tl.arange(0, DIM)
    is_part, is_dim = numbers < parts, dims < dim
    top = tl.load(tops + place * parts + numbers, mask=is_part, other=float("-inf"))
    largest = tl.max(top, axis=0)
    largest = tl.where(largest == float("-inf"), 0.0, largest)  # a row of no tokens
    share = tl.exp(top - largest)
    total = tl.sum(share * tl.load(totals + place * parts + numbers, mask=is_part, other=0.0))
    source = sums + (place * parts + numbers[:, None]) * dim + dims[None, :]
    part = tl.load(source, mask=is_part[:, None] & is_dim[None, :], other=0.0)
    summed = tl.sum(share[:, None] * part, axis=0)
    result = summed / tl.where(total > 0, total, 1.0)
    tl.store(out + place * dim + dims, result.to(out.dtype.element_ty), mask=is_dim)


def paged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    lengths: Tensor,
    scaling: float,
    window: int | None = None,
) -> Tensor:
    """`ops.paged_attention`: parts of each row at the same time, then joined.

    How a row is divided depends on the number of rows and the width of `tables`, as the recordings
    of `engine/graphs.py` need; weights are rounded to the dtype of the values.
    """
    rows, heads, dim = query.shape
    block, kv_heads = keys.shape[1:3]
    width = tables.shape[1]
    group = heads // kv_heads
    most = triton.cdiv(width * block, _LEAST_TOKENS)
    parts = max(1, min(most, triton.cdiv(_PROGRAMS, max(1, rows * kv_heads))))
    part_blocks = triton.cdiv(width, parts)
    parts = triton.cdiv(width, part_blocks)
    options: dict[str, Any] = {"dtype": torch.float32, "device": query.device}
    sums = torch.empty((rows, heads, parts, dim), **options)
    tops, totals = torch.empty((2, rows, heads, parts), **options)
    out = torch.empty((rows, heads, dim), dtype=query.dtype, device=query.device)
    if not rows:
        return out
    size = max(16, triton.next_power_of_2(dim))
    _attend_part[(rows, kv_heads, parts)](
        query, keys, values, tables, lengths, sums, tops, totals,
        query.stride(0), width, heads, kv_heads, dim, scaling, window or 0, part_blocks, parts,
        GROUP=group, ROWS=max(16, triton.next_power_of_2(group)), DIM=size, BLOCK=block,
    )  # fmt: skip
    _join_parts[(rows * heads,)](
        sums, tops, totals, out, dim, parts, PARTS=triton.next_power_of_2(parts), DIM=size
    )
    return out


def _warps(size: int) -> int:
    return 4 if size <= 2048 else 8
