"""Decoded pictures and frames that are remembered, least recently used first out."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from PIL import Image

Shown = Image.Image | Sequence[Image.Image]
"""A picture, or the frames of a video."""


class MediaCache:
    """Values by key, within a number of bytes. Threads may share it.

    Args:
        max_bytes: of all pixels; 0 keeps nothing.
        max_items: however small they are, so that the cache is full, and grows no more, early in
            the life of a server.
    """

    def __init__(self, max_bytes: int, max_items: int = 1024):
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._lock = threading.Lock()
        self._items: OrderedDict[Hashable, Shown] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._origins: dict[Hashable, bytes] = {}
        self._bytes = 0
        self._hits = self._queries = 0

    def get(self, key: Hashable, origin: bytes | None = None) -> Shown | None:
        """What is remembered; with an `origin`, only if it was put with the same."""
        with self._lock:
            self._queries += 1
            if key not in self._items or origin not in (None, self._origins[key]):
                return None
            self._hits += 1
            self._items.move_to_end(key)
            return self._items[key]

    def put(self, key: Hashable, shown: Shown, origin: bytes = b"") -> None:
        """Remember it, unless it alone is larger than all that may be kept."""
        size = num_bytes(shown)
        with self._lock:
            self._drop(key)
            if size > self._max_bytes:
                return
            self._items[key] = shown
            self._sizes[key] = size
            self._origins[key] = origin
            self._bytes += size
            while self._bytes > self._max_bytes or len(self._items) > self._max_items:
                self._drop(next(iter(self._items)))

    def clear(self) -> None:
        with self._lock:
            self._items.clear()
            self._sizes.clear()
            self._origins.clear()
            self._bytes = 0

    def stats(self) -> dict[str, int]:
        """`items`, their `bytes`, and how many `queries` were `hits`."""
        with self._lock:
            counts = {"items": len(self._items), "bytes": self._bytes}
            return {**counts, "hits": self._hits, "queries": self._queries}

    def _drop(self, key: Hashable) -> None:
        if key in self._items:
            del self._items[key]
            self._bytes -= self._sizes.pop(key)
            del self._origins[key]


def num_bytes(shown: Shown) -> int:
    """As Pillow keeps colours: 4 bytes a pixel, and some for each picture."""
    images = [shown] if isinstance(shown, Image.Image) else shown
    return sum(4 * num_pixels(image) + _OVERHEAD for image in images)


def num_pixels(shown: Shown) -> int:
    """Of a picture, or of all frames."""
    images = [shown] if isinstance(shown, Image.Image) else shown
    return sum(image.width * image.height for image in images)


_OVERHEAD = 1024
