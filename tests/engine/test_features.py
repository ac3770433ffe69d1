"""The cache of visual features: its limit, its order, its counters."""

from concurrent.futures import ThreadPoolExecutor

import torch
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.engine.features import FeatureCache


def test_the_least_recently_used_is_forgotten_first() -> None:
    cache = FeatureCache(12)
    one, two, three = (torch.full((4,), number, dtype=torch.uint8) for number in (1, 2, 3))
    for key, tensor in (("a", one), ("b", two), ("c", three)):
        cache.put(key, tensor)
    assert cache.get("a") is not None
    cache.put("d", one)
    assert cache.get("b") is None
    assert torch.equal(cache.get("a"), one)
    cache.put("c", torch.zeros(8, dtype=torch.uint8))  # in place of the old; then `d` must go
    assert cache.get("d") is None
    held = cache.stats()
    assert held == {
        "entries": 2,
        "bytes": 12,
        "max_bytes": 12,
        "hits": 2,
        "misses": 2,
        "evictions": 2,
    }
    cache.clear()
    assert cache.get("a") is None
    assert cache.stats()["bytes"] == 0


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    cache = FeatureCache(10)
    cache.put("small", torch.zeros(2, dtype=torch.uint8))
    cache.put("large", torch.zeros(11, dtype=torch.uint8))
    assert cache.get("large") is None
    assert cache.get("small") is not None
    cache.put("small", torch.zeros(11, dtype=torch.uint8))
    assert cache.get("small") is None
    none = FeatureCache(0)
    none.put("a", torch.zeros(1))
    assert none.get("a") is None


def test_a_part_does_not_keep_the_whole() -> None:
    whole = torch.arange(1000.0, requires_grad=True)
    cache = FeatureCache(100)
    cache.put("part", whole[10:14])
    part = cache.get("part")
    assert part is not None
    assert part.tolist() == [10, 11, 12, 13]
    assert part.untyped_storage().nbytes() == 16
    assert not part.requires_grad


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 9)), max_size=50))
def test_it_holds_what_a_naive_list_would(steps: list[tuple[bool, int, int]]) -> None:
    cache = FeatureCache(20)
    naive: list[tuple[int, int]] = []  # key and size, the oldest first
    for puts, key, size in steps:
        found = [entry for entry in naive if entry[0] == key]
        naive = [entry for entry in naive if entry[0] != key]
        if puts:
            cache.put(key, torch.zeros(size, dtype=torch.uint8))
            naive.append((key, size))
            while sum(size for _, size in naive) > 20:
                naive.pop(0)
        else:
            tensor = cache.get(key)
            assert [(key, len(tensor))] == found if tensor is not None else not found
            naive += found
        held = cache.stats()
        assert (held["entries"], held["bytes"]) == (len(naive), sum(size for _, size in naive))


def test_threads_may_share_it() -> None:
    cache = FeatureCache(64)

    def use(seed: int) -> None:
        for step in range(400):
            key = (seed * step) % 11
            found = cache.get(key)
            assert found is None or found.tolist() == [key] * len(found)
            cache.put(key, torch.full((1 + key,), key, dtype=torch.uint8))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(1, 5)))
    held = cache.stats()
    assert held["bytes"] <= 64
    assert held["hits"] + held["misses"] == 1600
