"""Steps of the decoder recorded once and replayed, on CUDA (CUDA graphs).

A step of one token per sequence has a thousand small kernels, and starting them takes longer than
computing them. So it is recorded for some sizes (sequences, and blocks of the longest), on buffers
that stay where they are, and replayed for whatever is copied into them. What is left over of a
size repeats the first sequence: it writes the same keys to the same place once more.

Only what is plain is recorded: layers of adapters, quantised ones and hooks may do anything in a
call, and experts read back which tokens are theirs.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .attention import FlatBatch, Rows
from .block_store import BlockStore

if TYPE_CHECKING:
    from .decoder import Decoder

_MIN_WIDTH = 8  # blocks
_MAX_ROWS = 256
_WARM_UPS = 2

Step = Callable[[], torch.Tensor]


class StaticStep:
    """A step on buffers of one size; the same on any device."""

    def __init__(self, decoder: "Decoder", store: BlockStore, num_rows: int, width: int):
        """
        Args:
            num_rows: tokens, each of another sequence.
            width: blocks of the longest sequence.
        """
        self._decoder, self._store = decoder, store
        device = decoder.device
        self._embeds = torch.zeros(
            (num_rows, decoder.hidden_size), dtype=decoder.dtype, device=device
        )
        self._tables = torch.zeros((num_rows, width), dtype=torch.int32, device=device)
        self._lengths = torch.ones(num_rows, dtype=torch.int32, device=device)
        self._positions, self._slots = torch.zeros((2, num_rows), dtype=torch.int64, device=device)

    def fill(self, embeds: torch.Tensor, batch: FlatBatch) -> None:
        """Copy in a batch of as many tokens or fewer."""
        assert batch.rows is not None
        width = batch.rows.tables.shape[1]
        for target, source in (
            (self._embeds, embeds),
            (self._tables[:, :width], batch.rows.tables),
            (self._lengths, batch.rows.lengths),
            (self._positions, batch.positions),
            (self._slots, batch.slots),
        ):
            target[: len(source)].copy_(source)
            target[len(source) :].copy_(source[:1].expand_as(target[len(source) :]))

    def compute(self) -> torch.Tensor:
        """Logits (num_rows, vocab) of what the buffers hold."""
        # Made anew in each call: what it derives from the buffers belongs to the step.
        batch = FlatBatch(self._positions, self._slots, Rows(None, self._tables, self._lengths))
        return self._decoder.step(self._embeds, batch, self._store)


def record(compute: Step, pool: list[object]) -> Step:
    """Record what `compute` does on CUDA; the result replays it, and gives the same tensor.

    Args:
        pool: memory that all recordings share, made with the first of them.
    """
    current = torch.cuda.current_stream()
    stream = torch.cuda.Stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            compute()
    current.wait_stream(stream)
    if not pool:
        pool.append(torch.cuda.graph_pool_handle())
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile, to bring pictures there.
    with torch.cuda.graph(
        graph,
        pool=pool[0],  # type: ignore[arg-type]
        capture_error_mode="thread_local",
    ):
        output = compute()

    def replay() -> torch.Tensor:
        graph.replay()
        return output

    return replay


@dataclass
class _Recorded:
    step: StaticStep
    replay: Step


class RecordedSteps:
    """The recordings of a decoder, made when a size is met first."""

    def __init__(self, decoder: "Decoder", recorder: Callable[[Step, list[object]], Step] = record):
        self._decoder = weakref.proxy(decoder)  # whose part it is
        self._recorder = recorder
        self._sizes: dict[tuple[int, int], _Recorded] = {}
        self._key: tuple[object, ...] | None = None
        self._pool: list[object] = []

    @torch.inference_mode()
    def compute(
        self, embeds: torch.Tensor, batch: FlatBatch, store: BlockStore
    ) -> torch.Tensor | None:
        """Logits of all tokens; None where the batch or the model is none to record."""
        rows = batch.rows
        if rows is None or rows.index is not None or not batch.is_step or len(embeds) > _MAX_ROWS:
            return None
        parts = self._decoder.plain_weights()
        if parts is None or embeds.dtype != self._decoder.dtype:
            self._forget(None)
            return None
        held = (id(store), store.num_blocks, *(part.data_ptr() for part in store.keys))
        if (key := (*held, *parts)) != self._key:
            self._forget(key)
        size = size_of(len(embeds)), max(_MIN_WIDTH, size_of(rows.tables.shape[1]))
        recorded = self._sizes.get(size)
        if recorded is None:
            step = StaticStep(self._decoder, store, *size)
            step.fill(embeds, batch)
            recorded = _Recorded(step, self._recorder(step.compute, self._pool))
            self._sizes[size] = recorded
        recorded.step.fill(embeds, batch)
        return recorded.replay()[: len(embeds)].clone()  # the next replay writes over it

    def _forget(self, key: tuple[object, ...] | None) -> None:
        self._sizes.clear()
        self._pool.clear()
        self._key = key


def size_of(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()
