"""Products of many rows in float32, for a model that stays in bfloat16 or float16 in memory.

A CPU without instructions for these dtypes multiplies them four to eight times slower than
float32. One row is bound by reading the weights, and is best left as it is. For more rows it pays
to bring a block of the weights to float32 at a time, in a buffer that stays in the cache, and to
round the sums back. The results are the same up to rounding, and closer to float32.

Unusual here: no module is changed. While the model computes, the calls of PyTorch's products are
taken up by a `TorchFunctionMode`, so that projections, experts and attention of any model are
covered, and saving sees nothing of it. What is recorded for training stays as it was.
"""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# Fewer rows than this gain less than the widening costs.
MIN_ROWS = 4
# Numbers widened at a time: 4 MiB of float32, for the cache of one core and its neighbours.
BLOCK = 1 << 20
_HALVES = (torch.bfloat16, torch.float16)
_METHODS = ("forward", "get_image_features")
_local = threading.local()

Product = Callable[..., Any]


def widen(model: nn.Module) -> None:
    """Make `model` compute products of many rows in float32 when it runs on the CPU.

    Its dtype, parameters and saved files stay as they are.
    """
    for name in _METHODS:
        method = getattr(model, name, None)
        if method is not None:
            setattr(model, name, WidenedMethod(method))


class WidenedMethod:
    """A method of a model, in whose calls products are widened; copied and pickled with the
    model."""

    def __init__(self, method: Callable[..., Any]):
        functools.update_wrapper(self, method)  # transformers reads the signature
        self.method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.method(*args, **kwargs)
        with WidenedProducts():
            return self.method(*args, **kwargs)


class WidenedProducts(TorchFunctionMode):
    """Inside, products of many rows of bfloat16 or float16 on the CPU are computed in float32."""

    def __torch_function__(
        self,
        func: Product,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        replacement = _PRODUCTS.get(func)
        if replacement is None or not _is_wanted(args, kwargs):
            return func(*args, **kwargs)
        return replacement(*args, **kwargs)


def _is_wanted(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether all numbers are halves on the CPU and nothing is recorded for training."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    return (
        bool(tensors)
        and tensors[0].ndim >= 2
        and all(type(t) in (torch.Tensor, nn.Parameter) and t.device.type == "cpu" for t in tensors)
        and all(t.dtype in _HALVES for t in tensors if t.is_floating_point())
        and tensors[0].is_floating_point()
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )


def _linear(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    num_rows = input.numel() // max(1, input.shape[-1])
    if num_rows < MIN_ROWS or weight.ndim != 2:
        return nn.functional.linear(input, weight, bias)
    wide = input.reshape(num_rows, -1).float()
    output = torch.empty(num_rows, len(weight), dtype=input.dtype)
    height = max(1, BLOCK // max(1, weight.shape[1]))  # rows of the weight at a time
    for start in range(0, len(weight), height):
        rows = slice(start, start + height)
        part = None if bias is None else bias[rows].float()
        output[:, rows] = nn.functional.linear(wide, _in_float32(weight[rows]), part)
    return output.view(*input.shape[:-1], len(weight))


def _in_float32(block: torch.Tensor) -> torch.Tensor:
    """The block in float32, in a buffer of this thread: memory fresh from the system is slower."""
    buffer = getattr(_local, "buffer", None)
    if buffer is None or buffer.numel() < block.numel():
        with torch.inference_mode(False):  # one made inside could not be written to outside
            buffer = torch.empty(max(BLOCK, block.numel()), dtype=torch.float32)
        _local.buffer = buffer
    return buffer[: block.numel()].view(block.shape).copy_(block)


def _matmul(input: torch.Tensor, other: torch.Tensor, *, out: Any = None) -> torch.Tensor:
    if out is not None or other.ndim < 2 or input.shape[-2] < MIN_ROWS:
        return torch.matmul(input, other, out=out)
    if other.ndim == 2:
        return _linear(input, other.t())
    return torch.matmul(input.float(), other.float()).to(input.dtype)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    attend = nn.functional.scaled_dot_product_attention
    if query.shape[-2] < MIN_ROWS:
        return attend(query, key, value, attn_mask, *args, **kwargs)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    wide = attend(query.float(), key.float(), value.float(), attn_mask, *args, **kwargs)
    return wide.to(query.dtype)


def _convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    wide_bias = None if bias is None else bias.float()
    wide = nn.functional.conv2d(input.float(), weight.float(), wide_bias, *args, **kwargs)
    return wide.to(input.dtype)


_PRODUCTS: dict[Product, Product] = {
    torch.nn.functional.linear: _linear,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    torch.bmm: _matmul,
    torch.Tensor.bmm: _matmul,
    torch.mm: _matmul,
    torch.Tensor.mm: _matmul,
    torch.nn.functional.scaled_dot_product_attention: _attention,
    torch.nn.functional.conv2d: _convolution,
    torch.conv2d: _convolution,
}
