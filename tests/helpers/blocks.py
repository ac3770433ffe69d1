"""A small cache whose keys and values say which text they belong to."""

from collections.abc import Hashable, Sequence

import torch

from minicpmv.engine.block_store import BLOCK, BlockStore
from minicpmv.engine.kv_cache import BlockCache, Lease

SIZE = 2 * BLOCK * 8  # bytes of a block of `small_store`


def small_store(num_blocks: int = 0) -> BlockStore:
    return BlockStore(1, 1, 1, torch.int64, "cpu", num_blocks)


def made(max_blocks: int = 100, max_idle: int = 100) -> BlockCache:
    return BlockCache(small_store(), max_blocks * SIZE, max_idle * SIZE)


def value(tokens: Sequence[Hashable]) -> int:
    """What stands for the key of the last of `tokens`: it depends on all of them."""
    return hash(tuple(tokens))


def write(cache: BlockCache, lease: Lease, tokens: Sequence[Hashable], start: int) -> None:
    """Compute the tokens from `start` on."""
    for place in range(start, len(tokens)):
        cell = lease.blocks[place // BLOCK], place % BLOCK
        cache.store.keys[0][cell] = value(tokens[: place + 1])
        cache.store.values[0][cell] = -value(tokens[: place + 1])


def read(cache: BlockCache, lease: Lease, num_tokens: int) -> list[int]:
    keys = cache.store.keys[0][lease.blocks].flatten()[:num_tokens]
    assert torch.equal(keys, -cache.store.values[0][lease.blocks].flatten()[:num_tokens])
    return keys.tolist()
