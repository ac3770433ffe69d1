"""The memory of keys and values: blocks of tokens, numbered, that grow where they lie."""

import math
from typing import Any

import numpy as np
import torch

BLOCK = 32  # tokens
_LINE = 64  # bytes of a cache line


class BlockStore:
    """The tensors.

    Attributes:
        keys, values: of each layer, (num_blocks, BLOCK, num_kv_heads, head_dim). Beyond the end of
            a sequence they hold anything, NaN too: what an earlier one left there.
        num_blocks: how many there are.
        capacity: how many there can be without moving, which makes new tensors.
        bytes_per_block: of all layers, keys and values.
    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        num_blocks: int = 0,
    ):
        self._row = (BLOCK, num_kv_heads, head_dim)
        self._dtype, self._device = dtype, torch.device(device)
        self._layers = [self._zeros(0) for _ in range(num_layers)]  # keys and values of each
        self._bytes: list[Any] = [_bytes_of(layer) for layer in self._layers]
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.num_blocks = self.capacity = 0
        self.bytes_per_block = 2 * num_layers * BLOCK * num_kv_heads * head_dim * dtype.itemsize
        self.grow(num_blocks)

    def grow(self, num_blocks: int) -> None:
        """Have `num_blocks` blocks, the first of them those of before.

        Above `capacity` all of them move: layer by layer, so that no second copy of all is needed.
        """
        assert num_blocks >= self.num_blocks
        if num_blocks > self.capacity:
            self._move(num_blocks)
        self.keys[:] = [layer[0, :num_blocks] for layer in self._layers]
        self.values[:] = [layer[1, :num_blocks] for layer in self._layers]
        self.num_blocks = num_blocks

    def reserve(self, num_blocks: int) -> bool:
        """Set `capacity`, on a CPU, where addresses are no memory until they are written.

        Returns:
            False for another device, and where the system gives no addresses without memory.
        """
        if self._device.type != "cpu":
            return False
        try:
            self._move(max(num_blocks, self.num_blocks))
        except MemoryError:
            return False
        self.grow(self.num_blocks)
        return True

    def _move(self, capacity: int) -> None:
        with torch.no_grad():
            for index, old in enumerate(self._layers):
                new = self._zeros(capacity)
                new[:, : self.num_blocks] = old[:, : self.num_blocks]
                self._layers[index], self._bytes[index] = new, _bytes_of(new)
                self.keys[index : index + 1] = [new[0, : self.num_blocks]]
                self.values[index : index + 1] = [new[1, : self.num_blocks]]
                del old  # the last of it
        self.capacity = capacity

    def _zeros(self, num_blocks: int) -> torch.Tensor:
        shape = (2, num_blocks, *self._row)
        # Not as inference tensors, which nobody could write to in another mode.
        with torch.inference_mode(False):
            if self._device.type != "cpu" or not num_blocks:
                return torch.zeros(shape, dtype=self._dtype, device=self._device)
            num_bytes = math.prod(shape) * self._dtype.itemsize
            memory = np.zeros(num_bytes + _LINE, np.uint8)  # by calloc; torch.zeros would write
            start = -memory.ctypes.data % _LINE
            return torch.from_numpy(memory[start : start + num_bytes]).view(self._dtype).view(shape)

    def copy_block(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of a block."""
        with torch.no_grad():
            for layer in self._bytes:
                layer[:, target, :num_tokens] = layer[:, source, :num_tokens]


def _bytes_of(layer: torch.Tensor) -> Any:
    """The same memory, on a CPU for NumPy, which copies little in a tenth of torch's time."""
    return layer.view(torch.uint8).numpy() if layer.device.type == "cpu" else layer
