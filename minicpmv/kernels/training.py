"""Float32 training on AMD processors with AVX-512, where oneDNN multiplies twice as fast as MKL.

No module is changed: while a training step runs, `torch.nn.functional.linear` is another function.
A `TorchFunctionMode`, as inference has it (`engine/compiled.py`), would not do: it is off during
the backward pass, where gradient checkpointing computes layers again and has to meet the same
functions as before. In bfloat16, and wherever else `prefers_onednn` says no, nothing happens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .products import onednn_linear, prefers_onednn

_torch_linear = F.linear  # PyTorch's own, while another stands in its place


@contextmanager
def fast_training_products() -> Iterator[None]:
    """Around a whole training step, the backward pass included: linear layers in float32 on the CPU
    are computed by oneDNN where that is faster."""
    if not (prefers_onednn(torch.float32, True) and prefers_onednn(torch.float32, False)):
        yield
        return
    before = F.linear
    F.linear = _linear
    try:
        yield
    finally:
        F.linear = before


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    operands = [input, weight] if bias is None else [input, weight, bias]
    if (
        input.ndim < 2
        or not all(_is_plain(x) for x in operands)
        or torch.is_autocast_enabled("cpu")
    ):
        return _torch_linear(input, weight, bias)
    if torch.is_grad_enabled() and any(x.requires_grad for x in operands):
        product: Any = _Linear.apply(input, weight, bias)
        return product
    found = onednn_linear(input, weight, bias)
    return _torch_linear(input, weight, bias) if found is None else found


def _is_plain(x: Any) -> bool:
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
    )


class _Linear(torch.autograd.Function):
    """`torch.nn.functional.linear` and its gradients, each one product of oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # What a gradient does not need is not kept: with frozen weights no inputs.
        ctx.save_for_backward(
            x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None
        )
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad, weight.t())
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            rows = grad.flatten(0, -2)
            if ctx.needs_input_grad[1]:
                grad_weight = _product(rows.t(), x.flatten(0, -2).t())
            if ctx.needs_input_grad[2]:
                grad_bias = rows.sum(dim=0)
        return grad_x, grad_weight, grad_bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


__all__ = ["fast_training_products"]
