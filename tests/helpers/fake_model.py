"""A decoder and an encoder of whole numbers, which show whether a scheduler feeds them right.

A key is its token's number; the next token is a checksum of all keys that the blocks of a sequence
hold. One that was not written, was written by another, or stands elsewhere gives another answer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from minicpmv.engine.block_store import BLOCK, BlockStore
from minicpmv.engine.decoder import Span

VOCABULARY = 97
POISON = 90  # a token that the decoder fails at


def next_token(numbers: Sequence[int]) -> int:
    """Never POISON, nor the ids that end answers, which are above it."""
    value = 7
    for place, number in enumerate(numbers):
        value = (value * 31 + number * (place % 13 + 1)) % 1_000_003
    return value % POISON


def answer(prompt: Sequence[int], num_tokens: int) -> list[int]:
    numbers, new = list(prompt), []
    for _ in range(num_tokens):
        new.append(next_token(numbers))
        numbers.append(new[-1])
    return new


class FakeDecoder:
    """As `Decoder`, with one layer, one head and one number in it."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[list[Span]] = []
        self.store = BlockStore(1, 1, 1, self.dtype, self.device)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.float()[:, None]

    def forward(
        self,
        embeds: torch.Tensor,
        spans: Sequence[Span],
        store: BlockStore,
        keep: Any,
        at_work: Callable[[], None],
    ) -> torch.Tensor:
        self.calls.append(list(spans))
        at_work()
        rows: list[torch.Tensor] = []
        first = 0
        for span in spans:
            numbers = embeds[first : first + span.length, 0]
            if bool((numbers == POISON).any()):
                raise RuntimeError("out of memory")
            for offset in range(span.length):
                place = span.start + offset
                block = span.blocks[place // BLOCK]
                store.keys[0][block, place % BLOCK, 0, 0] = numbers[offset]
            table = store.keys[0][list(span.blocks)].flatten().tolist()
            for offset in range(span.length):
                row = torch.zeros(VOCABULARY)
                row[next_token([int(n) for n in table[: span.start + offset + 1]])] = 1.0
                rows.append(row)
            first += span.length
        return torch.stack(rows)[list(keep)] if len(keep) else torch.zeros(0, VOCABULARY)


class FakeEncoder:
    """A slice is two placeholders; their features are the number in its pixels, and one more."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def is_small(self) -> bool:
        return False

    def piece_of(self, target_sizes: torch.Tensor) -> int:
        return 1

    def encode(
        self, pixel_values: torch.Tensor, target_sizes: torch.Tensor, longest: int | None
    ) -> torch.Tensor:
        self.calls.append(len(pixel_values))
        if bool((pixel_values == POISON).any()):
            raise RuntimeError("a picture that cannot be encoded")
        first = pixel_values.float().reshape(-1, 1, 1)
        return torch.cat([first, first + 1], dim=1)
