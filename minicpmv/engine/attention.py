"""Attention of a flat batch: tokens of several sequences in one row, their past in blocks.

    spans        sequence A: 1 token | B: 1 token | C: 300 tokens of its prompt | ...
    flat batch   [ a | b | c c c c c ... ]

Spans of a few tokens (a step, or tokens that were guessed ahead) are taken all together: every
token is a row of its own with the number of tokens that it attends to, so that the mask is a
length. Longer spans go one by one over their keys in a row, by a kernel or PyTorch's attention.
On a CPU pieces of prompts do so however short they are, and tokens of answers do not: where a
prompt is divided, how much of it was there before, and how far was guessed then makes no difference
to sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from ..kernels import causal_attention, ops
from .block_store import BLOCK, BlockStore

# Spans of so many tokens are taken together; on a CPU all that an answer can have: a token and what
# is guessed ahead. So the sums of a token are the same however many are guessed before it.
MAX_ROWS = 8
MAX_ROWS_ON_CPU = 65
# Keys, and as many values, that are copied out of their blocks at a time: numbers.
_GATHERED = 1 << 27
# Tables are cut to a multiple of this width, so that they last for some steps.
_TABLE_STEP = 8


@dataclass(frozen=True)
class Span:
    """New tokens of one sequence.

    Fields:
        start: tokens of it that have been computed before.
        length: new tokens.
        blocks: numbers of its blocks, as many as `start + length` tokens need, or more.
        is_prompt: whether they are a piece of a prompt.
    """

    start: int
    length: int
    blocks: Sequence[int]
    is_prompt: bool = False


@dataclass(frozen=True)
class Rows:
    """Tokens that are taken together.

    Fields:
        index: (rows,), their places in the batch; None where they are the whole batch.
        tables: int32 (rows, blocks).
        lengths: int32 (rows,), how many tokens each attends to, itself included.
    """

    index: torch.Tensor | None
    tables: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True)
class Piece:
    """A longer span.

    Fields:
        place: its tokens in the batch.
        start: tokens of the sequence before it.
        blocks: a slice, where they follow each other, or int64 (blocks,).
    """

    place: slice
    start: int
    blocks: slice | torch.Tensor

    @property
    def total(self) -> int:
        return self.start + self.place.stop - self.place.start


class FlatBatch:
    """What attention needs to know of a batch; the same for all layers.

    Attributes:
        positions: int64 (n,), of each token in its sequence.
        slots: int64 (n,), block times `BLOCK` plus place in the block, where its keys go.
        rows: None where all spans are long.
        is_step: whether each sequence has one token.
    """

    def __init__(
        self,
        positions: torch.Tensor,
        slots: torch.Tensor,
        rows: Rows | None,
        pieces: Sequence[Piece] = (),
        is_step: bool = True,
    ):
        self.positions = positions
        self.slots = slots
        self.rows = rows
        self.pieces = pieces
        self.is_step = is_step
        self._masks: dict[tuple[int, int | None, torch.dtype], torch.Tensor | None] = {}
        self._visible: dict[int | None, torch.Tensor] = {}

    def mask(self, number: int, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What each token of a piece attends to, (length, total), additive; None where that is
        all tokens before it, and the piece begins its sequence."""
        key = number, window, dtype
        if key not in self._masks:
            piece = self.pieces[number]
            self._masks[key] = _mask(piece.start, piece.total, window, dtype, self.slots.device)
        return self._masks[key]

    @cached_property
    def held_slots(self) -> torch.Tensor:
        """Where the tokens that each row attends to are: int64 (rows, blocks * BLOCK).

        Behind its last token stands the last one: what lies in other places may be undefined.
        """
        assert self.rows is not None
        offsets = torch.arange(BLOCK, device=self.slots.device)
        slots = (self.rows.tables[..., None] * BLOCK + offsets).flatten(1)
        last = slots.gather(1, self.rows.lengths[:, None].long() - 1)
        return torch.where(self.visible(None), slots, last).long()

    def visible(self, window: int | None) -> torch.Tensor:
        """Which of `held_slots` each row attends to: (rows, blocks * BLOCK)."""
        if window not in self._visible:
            assert self.rows is not None
            places = torch.arange(self.rows.tables.shape[1] * BLOCK, device=self.slots.device)
            lengths = self.rows.lengths[:, None]
            visible = places < lengths
            if window is not None:
                visible &= places >= lengths - window
            self._visible[window] = visible
        return self._visible[window]


class Batcher:
    """Makes batches of spans; keeps the table of the last one, which is mostly that of the next."""

    def __init__(self, device: torch.device):
        self._device = device
        self._is_cpu = device.type == "cpu"
        self._max_rows = MAX_ROWS_ON_CPU if self._is_cpu else MAX_ROWS
        self._blocks: list[list[int]] = []
        self._counts: list[int] = []
        self._width = 0
        self._tables = torch.empty(0)

    def batch(self, spans: Sequence[Span]) -> FlatBatch:
        """
        Raises:
            ValueError: a span has no tokens, or too few blocks.
        """
        positions: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        lengths: list[int] = []
        short: list[Span] = []
        pieces: list[Piece] = []
        offset = 0
        for span in spans:
            start, stop, blocks = span.start, span.start + span.length, span.blocks
            if span.length < 1 or len(blocks) * BLOCK < stop:
                raise ValueError(
                    f"A span of {span.length} tokens after {start} has {len(blocks)} blocks of "
                    f"{BLOCK} tokens; it needs a token at least, and blocks for all of them."
                )
            own = range(start, stop)
            positions += own
            if span.length == 1:
                slots.append(blocks[start // BLOCK] * BLOCK + start % BLOCK)
            else:
                slots += [blocks[place // BLOCK] * BLOCK + place % BLOCK for place in own]
            if span.length <= self._max_rows and not (span.is_prompt and self._is_cpu):
                places += range(offset, offset + span.length)
                lengths += range(start + 1, stop + 1)
                short.append(span)
            else:
                held = list(blocks[: -(-stop // BLOCK)])
                pieces.append(Piece(slice(offset, offset + span.length), start, self._run(held)))
            offset += span.length
        rows = None
        if short:
            index = None if len(places) == offset else self._tensor(places, torch.int64)
            tables = self._tables_of(short, max(lengths))
            rows = Rows(index, tables, self._tensor(lengths, torch.int32))
        return FlatBatch(
            self._tensor(positions, torch.int64),
            self._tensor(slots, torch.int64),
            rows,
            pieces,
            is_step=not pieces and len(positions) == len(spans),
        )

    def _tables_of(self, spans: Sequence[Span], num_tokens: int) -> torch.Tensor:
        """Tables of all rows, at least as wide as `num_tokens` need."""
        width = -(-num_tokens // (BLOCK * _TABLE_STEP)) * _TABLE_STEP
        blocks = [span.blocks for span in spans]
        counts = [span.length for span in spans]
        if width != self._width or counts != self._counts or blocks != self._blocks:
            self._width, self._counts = width, counts
            self._blocks = [list(one) for one in blocks]
            tables = np.zeros((len(spans), width), np.int32)
            for row, own in zip(tables, blocks, strict=True):
                held = own[:width]
                row[: len(held)] = held
            tables = np.repeat(tables, counts, axis=0)
            self._tables = torch.from_numpy(tables).to(self._device)
        return self._tables

    def _run(self, blocks: list[int]) -> slice | torch.Tensor:
        first, num_blocks = blocks[0], len(blocks)
        if blocks == list(range(first, first + num_blocks)):
            return slice(first, first + num_blocks)
        return self._tensor(blocks, torch.int64)

    def _tensor(self, numbers: list[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(numbers, dtype=dtype).to(self._device)


def attend(
    query: torch.Tensor,
    store: BlockStore,
    layer: int,
    batch: FlatBatch,
    scaling: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of new tokens, whose keys are written, to their sequences.

    Args:
        query: (n, heads, head_dim).
        scaling: of the scores.
        window: how many tokens, the new one included, are attended to; None for all.

    Returns:
        (n, heads, head_dim).
    """
    keys, values, rows = store.keys[layer], store.values[layer], batch.rows
    has_kernel = query.is_cpu or (query.is_cuda and ops.triton_kernels() is not None)
    attend_rows = _attend_rows if has_kernel else attend_gathered
    if rows is not None and rows.index is None:
        return attend_rows(query, keys, values, batch, scaling, window)
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if rows is not None:
        assert rows.index is not None
        output[rows.index] = attend_rows(query[rows.index], keys, values, batch, scaling, window)
    for number, piece in enumerate(batch.pieces):
        own, found = query[piece.place], output[piece.place]
        known = keys[piece.blocks].flatten(0, 1)[: piece.total]
        held = values[piece.blocks].flatten(0, 1)[: piece.total]
        is_done = False
        if window is None or piece.total <= window:
            is_done = causal_attention(own, known, held, scaling, out=found) is not None
        if not is_done:
            mask = batch.mask(number, window, query.dtype)
            found.copy_(_attend_piece(own, known, held, mask, scaling))
    return output


def _attend_rows(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    batch: FlatBatch,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Attention of `batch.rows`: (rows, heads, head_dim) over the blocks of one layer."""
    assert batch.rows is not None
    tables, lengths = batch.rows.tables, batch.rows.lengths
    return ops.paged_attention(query, keys, values, tables, lengths, scaling, window)


def attend_gathered(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    batch: FlatBatch,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """The same by PyTorch's attention, for devices without a kernel; nothing is read back."""
    tokens = batch.held_slots.shape[1]
    kv_heads, head_dim = keys.shape[2:]
    # Queries that share keys stand in a row, so that keys need not be repeated.
    query = query.unflatten(1, (kv_heads, -1))  # (rows, kv_heads, heads of each, head_dim)
    mask = batch.visible(window)[:, None, None]
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    result = torch.empty_like(query)
    step = max(1, _GATHERED // (tokens * kv_heads * head_dim))
    for start in range(0, len(query), step):
        some = slice(start, start + step)
        slots = batch.held_slots[some]
        result[some] = F.scaled_dot_product_attention(
            query[some],
            keys[slots].transpose(1, 2),
            values[slots].transpose(1, 2),
            attn_mask=mask[some],
            scale=scaling,
        )
    return result.flatten(1, 2)


def _attend_piece(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """Attention within one sequence: (length, heads, head_dim) over (total, kv_heads, head_dim)."""
    result = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return result[0].transpose(0, 1)


def _mask(
    start: int, total: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    if start == 0 and (window is None or total <= window):
        return None
    places = torch.arange(total, device=device)
    own = places[start:, None]
    visible = places <= own
    if window is not None:
        visible &= places > own - window
    mask = torch.zeros(visible.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~visible, float("-inf"))
