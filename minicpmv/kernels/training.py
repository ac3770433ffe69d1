"""Float32 training on AMD processors with AVX-512, where oneDNN multiplies twice as fast as MKL.

As in `engine/compiled.py`, no module is changed: while a training step runs, calls of PyTorch's
`linear` are taken up by a `TorchFunctionMode`, forward and backward. In bfloat16, and wherever else
`prefers_onednn` says no, nothing happens.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .products import dense_linear, prefers_onednn


def fast_training_products() -> AbstractContextManager[Any]:
    """Around a whole training step, the backward pass included: gradient checkpointing computes
    layers again there, and has to meet the same functions."""
    if prefers_onednn(torch.float32, True) and prefers_onednn(torch.float32, False):
        return _Products()
    return nullcontext()


class _Products(TorchFunctionMode):
    """Inside, float32 linear layers on the CPU are computed by oneDNN."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear or torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        return _linear(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    operands = [input, weight] if bias is None else [input, weight, bias]
    if not all(_is_plain(x) for x in operands):
        return F.linear(input, weight, bias)
    if torch.is_grad_enabled() and any(x.requires_grad for x in operands):
        product: Any = _Linear.apply(input, weight, bias)
        return product
    return dense_linear(input, weight, bias)


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
