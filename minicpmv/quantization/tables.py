"""Embeddings whose rows become numbers when they are asked for."""

from typing import Any

import torch
from torch import Tensor, nn


class RowTable(nn.Module):
    """The side of a quantised layer that looks rows up; what they are kept in is `_rows`'s matter.

    They are multiplied by `embed_scale`, as MiniCPM's are. Stands before the layer's own class,
    which is given `form` (a type of blocks, a number of bits) and the two sizes.
    """

    like: Tensor  # empty: its dtype is the model's

    def __init__(
        self,
        form: Any,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        embed_scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: Any = None,
    ):
        super().__init__(form, num_embeddings, embedding_dim, device)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.embed_scale = padding_idx, embed_scale
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=device), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., embedding_dim), in the dtype of the model.

        Raises:
            IndexError: an id is not in the table.
        """
        flat = ids.flatten()
        if flat.device.type == "cpu" and flat.numel():
            least, most = int(flat.min()), int(flat.max())
            if least < 0 or most >= self.num_embeddings:
                raise IndexError(
                    f"The ids run from {least} to {most}; the table has {self.num_embeddings} rows."
                )
        rows = self._rows(flat)
        if self.embed_scale != 1:
            rows *= self.embed_scale
        return rows.view(*ids.shape, self.embedding_dim)

    def _rows(self, ids: Tensor) -> Tensor:
        """(number,) -> (number, embedding_dim), new, in the dtype of `like`."""
        raise NotImplementedError
