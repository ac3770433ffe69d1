"""How a tensor of a model is made from those of GGUF files.

The steps that move whole rows work on stored bytes as on numbers, so that quantised tensors can
stay as they are.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..container import GGUFFile
from ..dequantise import dequantise
from ..types import GGMLType


@dataclass(frozen=True)
class Recipe:
    """A tensor of a model.

    Fields:
        names: of the file's tensors, one above the other where there are several.
        shape: of the result.
        heads: the rows of so many heads are turned back from the order of llama.cpp's `llama` and
            `minicpm`; 0 for none.
        expert: which matrix of a stack; None where the tensor is no stack.
        is_turned: whether rows and columns change places at the end.
    """

    file: GGUFFile
    names: tuple[str, ...]
    shape: tuple[int, ...]
    heads: int = 0
    expert: int | None = None
    is_turned: bool = False

    @property
    def type(self) -> GGMLType | None:
        """How the numbers are stored; None where the parts differ."""
        types = {self.file.info(name).type for name in self.names}
        return types.pop() if len(types) == 1 else None

    @property
    def can_stay(self) -> bool:
        """Whether `blocks` gives the tensor: a matrix whose rows are whole."""
        return len(self.shape) == 2 and not self.is_turned and self.type is not None

    @property
    def moves(self) -> bool:
        """Whether `blocks` is a copy."""
        return bool(self.heads) or len(self.names) > 1

    def release(self) -> None:
        """Give the memory that reading took back to the system; see `GGUFFile.release`."""
        for name in self.names:
            self.file.release(name)

    def blocks(self) -> np.ndarray:
        """The stored bytes of a matrix, uint8 (rows, bytes of a row); not copied where no row
        moves."""
        parts = [self._part(name) for name in self.names]
        return self._in_order(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def numbers(self) -> np.ndarray:
        """The tensor, float32."""
        parts = [self._numbers_of(name) for name in self.names]
        rows = self._in_order(parts[0] if len(parts) == 1 else np.concatenate(parts))
        if self.is_turned:
            rows = np.ascontiguousarray(rows.T)
        return rows.reshape(self.shape)

    def _numbers_of(self, name: str) -> np.ndarray:
        info, blocks = self.file.info(name), self._part(name)
        shape = info.shape if len(info.shape) == 1 else (len(blocks), info.shape[-1])
        return dequantise(blocks, info.type, shape)

    def _part(self, name: str) -> np.ndarray:
        blocks = self.file.blocks(name)
        if self.expert is None:
            return blocks
        rows = len(blocks) // self.file.info(name).shape[0]
        return blocks[self.expert * rows : (self.expert + 1) * rows]

    def _in_order(self, rows: np.ndarray) -> np.ndarray:
        if not self.heads:
            return rows
        pairs = rows.reshape(self.heads, -1, 2, *rows.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def as_is(file: GGUFFile, name: str, shape: tuple[int, ...] | None = None) -> Recipe:
    """The tensor of a file, in a shape of as many numbers."""
    found = file.info(name).shape
    shape = found if shape is None else shape
    assert math.prod(shape) == math.prod(found), (name, shape, found)
    return Recipe(file, (name,), shape)
