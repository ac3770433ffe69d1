"""Layers whose weights are packed in 4 or 8 bits: what takes the place of `nn.Linear` and
`nn.Embedding`.

Their one parameter is `weight`, the bytes in the layout of `kernels/packing.py`; it stands in a
state dict under the name of the weight that it replaces. It may be mapped from a file, and it is
not trainable. Casting a model leaves the bytes alone: the layers compute in the dtype of their
inputs, and an embedding gives that of the model.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AdviceError
from ..kernels import PackedWeight, packed_linear
from ..kernels.packing import packed_shape
from .rows import dequantize_rows
from .tables import RowTable


class _Packed(nn.Module):
    """A weight `(out_features, in_features)` in `bits` bits, without numbers yet."""

    weight: nn.Parameter

    def __init__(self, bits: int, out_features: int, in_features: int, device: Any = None):
        super().__init__()
        self.bits, self.out_features, self.in_features = bits, out_features, in_features
        data = torch.empty(
            packed_shape(bits, out_features, in_features), dtype=torch.uint8, device=device
        )
        self.weight = nn.Parameter(data, requires_grad=False)
        self._packed: PackedWeight | None = None

    @property
    def packed(self) -> PackedWeight:
        """The weight as the kernels take it.

        Raises:
            ValueError: it has been replaced by numbers of another kind.
        """
        if self._packed is None or self._packed.data is not self.weight:
            self._packed = PackedWeight(self.weight, self.bits, self.out_features, self.in_features)
        return self._packed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


class PackedLinear(_Packed):
    """A linear layer with a packed weight. The bias, if any, is kept in the dtype of the model."""

    bias: nn.Parameter | None

    def __init__(
        self,
        bits: int,
        in_features: int,
        out_features: int,
        bias: Tensor | None = None,
        device: Any = None,
    ):
        super().__init__(bits, out_features, in_features, device)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), in the dtype of `x`.

        Raises:
            ValueError: something before this layer is trained; no gradient comes through it.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise AdviceError(
                "Packed weights of 4 and 8 bits answer and are not trained. Load the model with "
                "`quantize=nf4` to train adapters (QLoRA), or with its full weights."
            )
        return packed_linear(x, self.packed, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, bits={self.bits}"
        )


class PackedEmbedding(RowTable, _Packed):
    """A table of embeddings with packed rows; the rows that are asked for are unpacked."""

    def _rows(self, ids: Tensor) -> Tensor:
        return dequantize_rows(self.packed, ids, self.like.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits}"
