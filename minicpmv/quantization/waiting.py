"""Tensors that are read when transformers asks for them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


class Waiting:
    """A tensor that is read when its turn comes, as of a safetensors file.

    Args:
        read: gives the tensor of a name.
        is_float: whether transformers may cast it.
    """

    def __init__(self, read: Callable[[str], Tensor], name: str, is_float: bool):
        self._read, self._name, self._is_float = read, name, is_float

    def __getitem__(self, index: Any) -> Tensor:
        assert index is Ellipsis, index
        return self._read(self._name)

    def get_dtype(self) -> str:
        """As safetensors writes it; transformers looks at the first letter."""
        return "F32" if self._is_float else "U8"
