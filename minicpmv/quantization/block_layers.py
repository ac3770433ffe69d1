"""Layers whose weights are the blocks of a GGUF file, as they lie in it: what takes the place of
`nn.Linear` and `nn.Embedding`.

Their one parameter is `weight`, uint8 (out_features, bytes of a row), mapped from the file where no
row moves. Products are those of the numbers that the blocks stand for; see `kernels/gguf.py`. On a
machine where no kernel can be compiled nothing is loaded into these layers; where one is disabled
afterwards, blocks are brought to numbers by numpy, which is slow.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AdviceError
from ..gguf.dequantise import dequantise
from ..gguf.types import TYPES
from ..kernels import gguf as kernels
from ..kernels.build import SUFFIXES, built
from .tables import RowTable


class _Blocks(nn.Module):
    """A weight `(out_features, in_features)` of one of ggml's types, without numbers yet."""

    weight: nn.Parameter

    def __init__(self, kind: str, out_features: int, in_features: int, device: Any = None):
        super().__init__()
        self.kind, self.out_features, self.in_features = TYPES[kind], out_features, in_features
        shape = out_features, self.kind.row_bytes(in_features)
        data = torch.empty(shape, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(data, requires_grad=False)

    def numbers(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The whole weight (out_features, in_features)."""
        out = torch.empty(self.out_features, self.in_features, dtype=dtype)
        self._widen(0, self.out_features, out)
        return out

    def _widen(self, start: int, end: int, out: Tensor) -> None:
        """Write the weights of outputs `start` to `end` (exclusive)."""
        self._write(self.weight[start:end], out)

    def _write(self, blocks: Tensor, out: Tensor, index: Tensor | None = None) -> None:
        """Write rows, those of `index` or all of `blocks`, as numbers in the dtype of `out`."""
        library = built()
        if library is not None and kernels.takes(blocks):
            wide = out if out.dtype in SUFFIXES else torch.empty(out.shape)
            kernels.widened(library, blocks, self.kind.id, wide, index)
            if wide is not out:
                out.copy_(wide)
            return
        rows = blocks if index is None else blocks[index]
        out.copy_(torch.from_numpy(dequantise(rows.numpy(force=True), self.kind)))

    def _check_place(self, x: Tensor) -> None:
        """
        Raises:
            ValueError: the weight or the input is not on a CPU.
        """
        if x.device.type != "cpu" or self.weight.device.type != "cpu":
            raise AdviceError(
                f"Weights in the blocks of a GGUF file are computed with on a CPU, and the layer "
                f"has its weight on {self.weight.device} and its input on {x.device}. Load the "
                f"file with `device={x.device.type}`, which widens it."
            )


class BlockLinear(_Blocks):
    """A linear layer with a weight in blocks. The bias, if any, is kept in the model's dtype."""

    bias: nn.Parameter | None

    def __init__(
        self,
        kind: str,
        in_features: int,
        out_features: int,
        bias: Tensor | None = None,
        device: Any = None,
    ):
        super().__init__(kind, out_features, in_features, device)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), in the dtype of `x`; sums are float32.

        Raises:
            ValueError: something before this layer is trained; no gradient comes through it. Or
                the last axis of `x` is not the layer's width.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError(
                "Weights in the blocks of a GGUF file answer and are not trained. Train the full "
                "weights, and export the result."
            )
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"x has {x.shape[-1]} features and the layer takes {self.in_features}."
            )
        self._check_place(x)
        rows, library = x.reshape(-1, self.in_features), built()
        if len(rows) <= kernels.MOST_ROWS and library is not None and kernels.takes(self.weight):
            wide = rows if rows.dtype in SUFFIXES else rows.float()
            found = kernels.few_rows(library, wide, self.weight, self.kind.id, self.bias)
            found = found.to(x.dtype)
        else:
            found = kernels.by_tiles(rows, self.out_features, self._widen, self.bias)
        return found.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, type={self.kind.name}"
        )


class BlockEmbedding(RowTable, _Blocks):
    """A table of embeddings in blocks; the rows that are asked for become numbers."""

    def _rows(self, ids: Tensor) -> Tensor:
        """
        Raises:
            ValueError: the table is not on a CPU.
        """
        self._check_place(ids)
        rows = torch.empty(len(ids), self.embedding_dim, dtype=self.like.dtype)
        self._write(self.weight, rows, ids.long())
        return rows

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, type={self.kind.name}"


__all__ = ["BlockEmbedding", "BlockLinear"]
