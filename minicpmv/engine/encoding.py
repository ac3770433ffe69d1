"""Pieces of pictures to features: in the thread of the scheduler, or beside it.

Products of a small tower are so short that two threads that share each of them wait for each other,
and for Python, a third of the time. Where several pictures wait, each thread encodes one of its own
instead, and the decoder computes on with the processors that are left.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from ..kernels.openmp import computing_with, thread_setter
from .features import FeatureCache
from .prompt import Medium
from .vision import VisionEncoder


class PictureEncoding:
    """Encodes pictures, and puts their features into the cache.

    Attributes:
        num_pieces, num_slices: that were encoded.
    """

    def __init__(
        self, encoder: VisionEncoder | None, features: FeatureCache, wake: Callable[[], object]
    ):
        """
        Args:
            wake: called by another thread when it has encoded a piece.
        """
        self.num_pieces = self.num_slices = 0
        self._encoder, self._features, self._wake = encoder, features, wake
        self._is_free = threading.Condition()
        self._media: dict[int, Medium] = {}  # that are encoded beside, by identity
        self._pool: ThreadPoolExecutor | None = None
        self._num_threads = 0  # of the pool

    def encode(self, medium: Medium) -> None:
        """The next piece of a picture, here and now."""
        assert self._encoder is not None
        assert medium.pixels is not None
        pixel_values, target_sizes = medium.pixels
        done = sum(map(len, medium.encoded))
        end = done + self._encoder.piece_of(target_sizes[done:])
        piece = self._encoder.encode(pixel_values[done:end], target_sizes[done:end], medium.longest)
        medium.encoded.append(piece)
        with self._is_free:
            self.num_pieces += 1
            self.num_slices += end - done
        if end >= len(target_sizes):
            medium.features = features = torch.cat(medium.encoded).flatten(0, 1)
            medium.pixels, medium.encoded = None, []
            if medium.key is not None:
                self._features.put(medium.key, features)

    def runs_beside(self) -> bool:
        """Whether pictures may be encoded in other threads."""
        return (
            self._encoder is not None
            and self._encoder.is_small()
            and torch.get_num_threads() > 1
            and thread_setter() is not None
        )

    @property
    def num_beside(self) -> int:
        """Pictures that other threads have."""
        return len(self._media)

    @property
    def has_room(self) -> bool:
        """Whether other threads take one more: each has another one to go on with."""
        return len(self._media) < 2 * torch.get_num_threads()

    def is_beside(self, medium: Medium) -> bool:
        """Whether another thread has this picture, or one that is equal."""
        if id(medium) in self._media:
            return True
        held = list(self._media.values())
        return medium.key is not None and any(other.key == medium.key for other in held)

    def begin(self, medium: Medium) -> None:
        """Encode the next piece beside the calling thread; what goes wrong is told by `medium`."""
        if self._pool is None:
            self._num_threads = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(
                self._num_threads, "minicpmv-picture", initializer=_compute_alone
            )
        self._media[id(medium)] = medium
        self._pool.submit(self._work, medium)

    def _work(self, medium: Medium) -> None:
        try:
            with torch.inference_mode():
                self.encode(medium)
        except Exception as error:  # of this picture; raised where its prompt is computed
            medium.error = error
        finally:
            with self._is_free:
                del self._media[id(medium)]
                self._is_free.notify_all()
            self._wake()

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """A block that leaves processors to the threads beside it."""
        busy = min(self.num_beside, self._num_threads)
        if not busy:
            yield
            return
        with computing_with(max(1, torch.get_num_threads() - busy)):
            yield

    def wait(self) -> None:
        """Until no other thread has a picture."""
        with self._is_free:
            self._is_free.wait_for(lambda: not self._media)

    def forget_threads(self) -> None:
        """After a fork, in the child: they are the parent's."""
        self._pool, self._is_free = None, threading.Condition()

    def close(self) -> None:
        """End the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self.wait()
            pool.shutdown()


def _compute_alone() -> None:
    setter = thread_setter()
    assert setter is not None
    setter(1)
