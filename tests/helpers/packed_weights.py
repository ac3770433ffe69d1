"""Random packed weights for the tests of kernels and of quantisation."""

import torch
from torch import Tensor


def random_weight(rows: int, width: int, bits: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Integers (rows, width) and float16 scales (rows, groups), as `kernels.pack` takes them."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (0, 16) if bits == 4 else (-127, 128)
    q = torch.randint(low, high, (rows, width), generator=generator)
    q = q.to(torch.uint8 if bits == 4 else torch.int8)
    scales = torch.rand(rows, -(-width // 32), generator=generator) * 0.01 + 1e-4
    return q, scales.to(torch.float16)
