"""Compiled kernels for the vision side, whichever classes it is made of.

As in `widen.py`, no module is changed: while slices are encoded, the calls of PyTorch's functions
are taken up by a `TorchFunctionMode`. What a kernel does not take goes on to PyTorch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..kernels import dense_attention, dense_linear, gelu_tanh

_HALF_OR_SINGLE = (torch.float32, torch.bfloat16)


class CompiledFunctions(TorchFunctionMode):
    """Inside, attention without a mask and GELU are computed by compiled kernels on the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        replacement = _FUNCTIONS.get(func)
        if replacement is None or not _is_plain(args[:1]) or torch.is_grad_enabled():
            return func(*args, **kwargs)
        return replacement(func, *args, **kwargs)


def _is_plain(tensors: tuple[Any, ...]) -> bool:
    return all(
        type(x) is torch.Tensor and x.device.type == "cpu" and x.dtype in _HALF_OR_SINGLE
        for x in tensors
    )


def _attention(
    func: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> Any:
    if attn_mask is not None and attn_mask.dtype == torch.bool and bool(attn_mask.all()):
        attn_mask = None  # slices without padding
    if attn_mask is not None or dropout_p or is_causal or any(options.values()):
        return func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    scaling = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return dense_attention(query, key, value, scaling)


def _gelu(func: Callable[..., Any], input: torch.Tensor, *, approximate: str = "none") -> Any:
    return gelu_tanh(input) if approximate == "tanh" else func(input, approximate=approximate)


def _linear(
    func: Callable[..., Any],
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> Any:
    return dense_linear(input, weight, bias)


_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.nn.functional.scaled_dot_product_attention: _attention,
    torch.nn.functional.gelu: _gelu,
    torch.nn.functional.linear: _linear,
}
