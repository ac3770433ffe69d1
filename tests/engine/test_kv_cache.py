"""Blocks of keys and values: who holds which, what is known of a prompt, and the limits."""

import gc
import weakref
from collections.abc import Hashable, Sequence

import pytest
import torch

from minicpmv.engine.block_store import BLOCK, BlockStore
from minicpmv.engine.kv_cache import BlockCache

from ..helpers.blocks import SIZE, made, read, small_store, value, write


def answered(cache: BlockCache, tokens: Sequence[Hashable], more: int = 0) -> int:
    """Begin, compute and close one sequence; how many of its tokens were known."""
    expected = cache.known(tokens)
    lease = cache.begin(tokens, len(tokens) + more)
    assert lease is not None
    assert lease.num_known == expected
    known = [value(tokens[: place + 1]) for place in range(lease.num_known)]
    assert read(cache, lease, lease.num_known) == known
    write(cache, lease, tokens, lease.num_known)
    lease.close(tokens)
    return lease.num_known


def test_a_prompt_is_known_to_the_token_and_its_last_one_never() -> None:
    cache = made()
    text = list(range(100))
    assert answered(cache, text) == 0
    assert answered(cache, text) == 99
    assert answered(cache, text[:64]) == 63
    assert answered(cache, text[:65]) == 64
    assert answered(cache, text[:70] + [7] * 40) == 70
    assert answered(cache, [*text, 5]) == 100
    assert answered(cache, [7, *text]) == 0
    assert answered(cache, [7]) == 0
    held = cache.stats()
    assert (held["num_leases"], held["held_bytes"]) == (0, 0)
    assert held["known_tokens"] == 99 + 63 + 64 + 70 + 100
    assert held["prompt_tokens"] == 100 + 100 + 64 + 65 + 110 + 101 + 101 + 1


def test_keys_of_pictures_are_tokens() -> None:
    cache = made()
    first, other = ("picture", 1), ("picture", 2)
    text = [1, 2, *[first] * 64, 3, 4]
    answered(cache, text)
    assert answered(cache, [1, 2, *[first] * 64, 5]) == 66
    assert answered(cache, [1, 2, *[other] * 64, 5]) == 2


def test_the_end_of_a_text_is_forgotten_when_it_goes_on() -> None:
    cache = made()
    text = list(range(90))
    for length in (5, 20, 40, 63, 64, 80, 90):
        answered(cache, text[:length])
    assert cache.stats()["idle_bytes"] == 3 * SIZE
    assert answered(cache, text[:50]) == 49  # says nothing new, and leaves nothing behind
    assert cache.stats()["idle_bytes"] == 3 * SIZE


def test_running_sequences_share_what_is_committed() -> None:
    cache = made()
    text = list(range(200))
    first = cache.begin(text, 300)
    assert first is not None
    write(cache, first, text, 0)
    first.commit(text[:100])
    second = cache.begin(text, 200)
    assert second is not None
    assert second.num_known == 96
    assert second.blocks[:3] == first.blocks[:3]
    assert not set(second.blocks[3:]) & set(first.blocks)
    second.close(None)
    first.close(None)
    assert answered(cache, text) == 96


def test_what_two_share_is_held_until_both_are_closed() -> None:
    cache = made(max_blocks=4, max_idle=0)
    text = list(range(65))
    answered_by = cache.begin(text, 65)
    assert answered_by is not None
    write(cache, answered_by, text, 0)
    answered_by.commit(text)
    other = cache.begin(text, 65)
    assert other is not None
    assert other.blocks[:2] == answered_by.blocks[:2]
    answered_by.close(text)
    assert cache.begin([1], 65) is None
    assert read(cache, other, 64) == [value(text[: place + 1]) for place in range(64)]
    other.close(None)
    assert cache.stats()["held_bytes"] == 0


def test_what_was_copied_from_is_remembered_for_longer() -> None:
    cache = made(max_blocks=4, max_idle=3)
    answered(cache, [1] * 10)
    answered(cache, [2] * 10)
    assert answered(cache, [1] * 5 + [3] * 9) == 5
    assert answered(cache, [4] * 10) == 0  # in place of [2]
    assert answered(cache, [1] * 10) == 9
    assert answered(cache, [2] * 10) == 0


def test_part_of_what_was_committed_may_be_remembered() -> None:
    cache = made()
    text = list(range(100))
    lease = cache.begin(text, 100)
    assert lease is not None
    write(cache, lease, text, 0)
    lease.commit(text)
    lease.close(text[:40])
    assert answered(cache, text) == 96
    assert answered(cache, [*text[:40], 7]) == 40
    assert answered(cache, [*text[:96], *text[32:40], 7]) == 96


def test_two_that_compute_the_same_at_once_lose_nothing() -> None:
    cache = made()
    text = list(range(70))
    leases = [cache.begin(text, 100) for _ in range(2)]
    for lease in leases:
        assert lease is not None
        own = list(lease.blocks)
        write(cache, lease, text, 0)
        lease.commit(text)
        assert lease.blocks == own
    one, other = leases
    assert one is not None
    assert other is not None
    one.close(text)
    longer = [*text, *range(30)]
    write(cache, other, longer, 70)
    other.close(longer)
    assert cache.stats()["held_bytes"] == 0
    assert cache.stats()["idle_bytes"] == 4 * SIZE
    assert answered(cache, [*longer, 1]) == 100


def test_what_a_running_sequence_continues_is_not_forgotten() -> None:
    cache = made(max_blocks=6, max_idle=0)
    text = list(range(64))
    first, second = cache.begin(text, 64), cache.begin([*text, 1], 96)
    assert first is not None
    assert second is not None
    write(cache, first, text, 0)
    first.commit(text)
    write(cache, second, [*text, 1], 0)
    second.commit([*text, 1])
    first.close(text)
    # The second has computed them itself, and the tree needs them for what will follow.
    assert cache.stats()["held_bytes"] == 5 * SIZE
    third = cache.begin(text, 64)
    assert third is not None
    assert third.num_known == 63
    assert third.blocks[0] not in second.blocks
    second.close(None)
    third.close(None)
    assert cache.stats()["held_bytes"] == cache.stats()["idle_bytes"] == 0


def test_what_is_idle_is_held_again_by_another_that_computed_it() -> None:
    cache = made(max_blocks=5, max_idle=2)
    text = list(range(64))
    first, second = cache.begin(text, 64), cache.begin([*text, 1], 96)
    assert first is not None
    assert second is not None
    write(cache, first, text, 0)
    first.close(text)
    write(cache, second, [*text, 1], 0)
    second.commit([*text, 1])
    assert cache.stats()["held_bytes"] == 5 * SIZE
    assert cache.begin([9], 1) is None
    second.close([*text, 1])
    assert cache.stats()["held_bytes"] == 0
    assert answered(cache, text) == 63
    cache.clear()
    assert sorted(cache._free) == [*range(5)]


def test_the_longest_idle_is_forgotten_first_and_the_end_before_the_beginning() -> None:
    cache = made(max_blocks=5, max_idle=5)
    one, two = [1] * 64, [2] * 64
    answered(cache, one)
    answered(cache, two)
    assert answered(cache, one) == 63
    assert answered(cache, [3] * 20) == 0
    assert cache.stats()["evicted_blocks"] == 0
    assert answered(cache, one) == 63  # in a copy, in place of the end of `two`
    assert cache.stats()["evicted_blocks"] == 1
    assert answered(cache, two) == 32


def test_the_block_to_copy_changes_hands_where_no_other_is_left() -> None:
    cache = made(max_blocks=3, max_idle=3)
    answered(cache, [1] * 96)
    assert answered(cache, [1] * 40 + [2] * 56) == 40
    assert answered(cache, [1] * 40 + [2] * 56) == 95


def test_limits() -> None:
    cache = made(max_blocks=4, max_idle=1)
    with pytest.raises(ValueError, match=r"129 tokens need 2,560 bytes .* limit is 2,048"):
        cache.begin([1], 129)
    for tokens, room in (([], 5), ([1, 2], 1)):
        with pytest.raises(ValueError, match="room"):
            cache.begin(tokens, room)
    assert cache.store.num_blocks == cache.stats()["store_bytes"] == 0
    first = cache.begin([1], 64)
    assert cache.store.num_blocks == 2
    second = cache.begin([1], 33)
    assert second is not None
    assert cache.begin([1], 1) is None
    assert first is not None
    first.close(None)
    assert cache.begin([1], 33) is not None
    with pytest.raises(ValueError, match="smaller store"):
        BlockCache(small_store(5), 4 * SIZE, 0)
    only = cache.stats()
    assert (only["store_bytes"], only["max_bytes"]) == (4 * SIZE, 4 * SIZE)


@pytest.mark.parametrize("reserves", [True, False])
def test_the_store_grows_as_needed_and_keeps_its_content(
    reserves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reserves:
        monkeypatch.setattr(BlockStore, "reserve", lambda self, num_blocks: False)
    cache = made()
    places = set()
    texts = [[number] * 70 for number in range(9)]
    sizes = []
    leases = []
    for text in texts:
        lease = cache.begin(text, 70)
        assert lease is not None
        write(cache, lease, text, 0)
        leases.append(lease)
        sizes.append(cache.store.num_blocks)
        assert len(cache.store.keys[0]) == len(cache.store.values[0]) == sizes[-1]
        places.add(cache.store.keys[0].data_ptr())
    assert sizes == ([*range(3, 28, 3)] if reserves else [3, 6, 12, 12, 24, 24, 24, 24, 48])
    assert len(places) == (1 if reserves else 5)
    for text, lease in zip(texts, leases, strict=True):
        assert read(cache, lease, 70) == [value(text[: place + 1]) for place in range(70)]
    leases[4].close(None)
    leases[1].close(None)
    again = cache.begin([5], 160)
    assert again is not None
    assert again.blocks == sorted([*leases[1].blocks, *leases[4].blocks])[:5]  # low numbers first


def test_wrong_tokens_are_told() -> None:
    cache = made()
    text = list(range(40))
    lease = cache.begin(text, 64)
    assert lease is not None
    with pytest.raises(ValueError, match="Token 3 was committed as 9 and is 3"):
        lease.commit([0, 1, 2, 9])
    with pytest.raises(ValueError, match=r"65 tokens .* 2 blocks"):
        lease.commit([*text, *range(25)])
    write(cache, lease, text, 0)
    lease.commit(text)
    with pytest.raises(ValueError, match="Token 39"):
        lease.close([*text[:39], 7])
    assert cache.stats()["held_bytes"] == 0
    lease.close(text)
    lease.close(None)
    with pytest.raises(ValueError, match="closed"):
        lease.commit(text)
    assert cache.stats()["num_leases"] == 0
    assert answered(cache, text) == 32  # what was committed before


def test_clear_forgets_what_is_idle_now_and_what_is_held_later() -> None:
    cache = made()
    text = list(range(100))
    answered(cache, text)
    lease = cache.begin(text, 200)
    assert lease is not None
    cache.clear()
    assert cache.stats()["idle_bytes"] == 0
    assert read(cache, lease, 99) == [value(text[: place + 1]) for place in range(99)]
    assert answered(cache, text) == 0
    write(cache, lease, text, 99)
    lease.commit([*text, *range(90)])
    lease.close([*text, *range(90)])
    assert answered(cache, [*text, *range(90)]) == 100
    cache.clear()
    assert cache.stats()["held_bytes"] == cache.stats()["idle_bytes"] == 0


def test_a_lease_that_is_dropped_gives_its_blocks_back() -> None:
    cache = made(max_blocks=2)
    lease = cache.begin([1], 64)
    assert cache.begin([1], 1) is None
    del lease
    gc.collect()
    assert cache.stats()["held_bytes"] == 0
    assert cache.begin([1], 64) is not None


def test_nothing_keeps_the_tensors_when_the_cache_is_dropped() -> None:
    cache = made()
    answered(cache, list(range(300)))
    store = weakref.ref(cache.store)
    gc.disable()
    try:
        del cache
        assert store() is None
    finally:
        gc.enable()


def test_tensors_may_be_written_in_any_mode() -> None:
    with torch.inference_mode():
        store = BlockStore(2, 3, 4, torch.bfloat16, "cpu", 1)
        store.grow(2)
    store.keys[1][1] = 1
    store.copy_block(1, 0, 5)
    assert store.keys[1].shape == (2, BLOCK, 3, 4)
    assert store.keys[1][0].sum() == 5 * 12
    assert store.values[1].sum() == store.keys[0].sum() == 0
    assert store.bytes_per_block == 2 * 2 * BLOCK * 3 * 4 * 2
