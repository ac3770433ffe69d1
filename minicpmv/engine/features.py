"""Visual features of pictures that were seen before, by the hash of their pixels and settings."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

import torch


class FeatureCache:
    """Tensors by key, up to a limit in bytes; the least recently used is forgotten first.

    Threads may share it. A tensor belongs to the cache once it is put, and is only read.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._tensors: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()
        self._num_bytes = self._hits = self._misses = self._evictions = 0

    def get(self, key: Hashable) -> torch.Tensor | None:
        """What was put under a key, or None."""
        with self._lock:
            tensor = self._tensors.get(key)
            if tensor is None:
                self._misses += 1
                return None
            self._tensors.move_to_end(key)
            self._hits += 1
            return tensor

    def __contains__(self, key: Hashable) -> bool:
        """Whether it is there; this counts for nothing."""
        return key in self._tensors

    def put(self, key: Hashable, tensor: torch.Tensor) -> None:
        """Keep a tensor, in place of that of the same key; one larger than the limit is not kept.

        A part of a larger tensor is copied, so that the rest of it can be freed.
        """
        tensor = tensor.detach()
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        with self._lock:
            old = self._tensors.pop(key, None)
            if old is not None:
                self._num_bytes -= old.nbytes
            if tensor.nbytes > self.max_bytes:
                return
            while self._num_bytes + tensor.nbytes > self.max_bytes:
                _, oldest = self._tensors.popitem(last=False)
                self._num_bytes -= oldest.nbytes
                self._evictions += 1
            self._tensors[key] = tensor
            self._num_bytes += tensor.nbytes

    def clear(self) -> None:
        """Forget all tensors: the weights have changed. The counters go on."""
        with self._lock:
            self._tensors.clear()
            self._num_bytes = 0

    def stats(self) -> dict[str, int]:
        """How many tensors and bytes there are, and what was asked for."""
        with self._lock:
            return {
                "entries": len(self._tensors),
                "bytes": self._num_bytes,
                "max_bytes": self.max_bytes,
                "hits": self._hits,
                "misses": self._misses,
                "evictions": self._evictions,
            }
