"""Weights to integers of 4 or 8 bits with a float16 scale for every 32 inputs.

int8 divides a group by its largest number over 127. int4 has the codes -8 to 7, and what is best
for most numbers of a group is not what is best for its largest: a few scales are tried, from one
that cuts the largest number off to one that leaves room, with the largest number on either side of
zero, and the one whose best fit leaves the smallest squared error is kept. Quantisers of the
`Q4_0` kind try one.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..kernels.packing import GROUP, PackedWeight, pack_rows

# Codes at which the largest number of a group may lie, before the scale is fitted.
_LARGEST_AT = (-8.0, -7.5, -7.0, -8.5)
_BLOCK = 1 << 20  # weights at a time: 4 MiB in float32
# Groups that one thread works on: 32,000 numbers. From 32,768 on PyTorch shares out every single
# operation, and on a busy machine its threads wait for each other most of the time.
_CHUNK = 1000
_LEAST_SQUARE = 1e-30  # below, a group counts as zero


def quantise(
    rows: Tensor, bits: int, group: int = GROUP, dtype: torch.dtype = torch.float16
) -> tuple[Tensor, Tensor]:
    """Quantise rows of a weight.

    Args:
        rows: (rows, in_features), any floating-point dtype.
        bits: 4 or 8.
        group: inputs that share a scale.
        dtype: of the scales.

    Returns:
        Codes as `pack_rows` takes them, (rows, in_features), 0..15 or -127..127, and scales,
        (rows, groups). A group whose numbers are not finite, or too large for a scale in
        that dtype, has a scale that is not finite.
    """
    num_rows, width = rows.shape
    groups = torch.nn.functional.pad(rows.detach().float(), (0, -width % group)).view(-1, group)
    codes = torch.empty(groups.shape, dtype=torch.uint8 if bits == 4 else torch.int8)
    scales = torch.empty(len(groups), dtype=dtype)
    rule = _int4 if bits == 4 else _int8

    step = max(1, _CHUNK * GROUP // group)

    def work(start: int) -> None:
        chunk = slice(start, start + step)
        # Sums run down columns, which is fast.
        found, scales[chunk] = rule(groups[chunk].t().contiguous(), dtype)
        codes[chunk] = found.t()

    starts = range(0, len(groups), step)
    threads = min(torch.get_num_threads(), len(starts))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    else:
        for start in starts:
            work(start)
    return codes.view(num_rows, -1)[:, :width], scales.view(num_rows, -1)


def quantise_rows(packed: PackedWeight, start: int, rows: Tensor) -> bool:
    """Quantise outputs of a weight from `start` on, a block at a time, and pack them.

    Returns:
        Whether all numbers, and so all scales, are finite.
    """
    step = max(1, _BLOCK // (16 * packed.in_features)) * 16
    is_finite = True
    for first in range(0, len(rows), step):
        codes, scales = quantise(rows[first : first + step], packed.bits)
        is_finite = is_finite and bool(scales.isfinite().all())
        pack_rows(packed, start + first, codes, scales)
    return is_finite


def _int8(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    scales = (x.abs().amax(dim=0) / 127).to(dtype)
    # Rounded as the scale is stored: the largest number may come out a step above 127.
    codes = (x * _inverse(scales.float())).round_().clamp_(-127, 127)
    return codes.to(torch.int8), scales


def _int4(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    largest = x.gather(0, x.abs().argmax(dim=0, keepdim=True))[0]  # (groups,), with its sign
    inverse = _inverse(largest)
    gain, scale = torch.zeros_like(largest), torch.zeros_like(largest)
    for place in _LARGEST_AT:
        codes = (x * (inverse * place)).round_().clamp_(-8, 7)
        along, square = (x * codes).sum(dim=0), codes.square_().sum(dim=0)
        # With the best scale, along / square, the squared error is |x|^2 - along^2 / square.
        fitted = along / square.clamp_(min=_LEAST_SQUARE)
        gained = along * fitted
        is_better = gained > gain
        gain = torch.where(is_better, gained, gain)
        scale = torch.where(is_better, fitted, scale)
    # A group with a number that is not finite gains nothing; its scale must show it.
    scale = torch.where(largest.isfinite(), scale, torch.nan)
    scales = scale.to(dtype)
    codes = (x * _inverse(scales.float())).round_().clamp_(-8, 7)
    return codes.add_(8).to(torch.uint8), scales


def _inverse(scale: Tensor) -> Tensor:
    inverse = scale.reciprocal()
    return torch.where(inverse.isfinite(), inverse, 0.0)
