"""Random sequences over one cache: everyone reads its own, limits hold, nothing is lost."""

import pytest
from hypothesis import settings, stateful
from hypothesis import strategies as st

from minicpmv.engine.block_store import BLOCK
from minicpmv.engine.kv_cache import Lease

from ..helpers.blocks import SIZE, made, read, value, write


class Sequences(stateful.RuleBasedStateMachine):
    """Random sequences beside a naive model: the list of all texts that were ever remembered."""

    @stateful.initialize(max_blocks=st.integers(1, 24), max_idle=st.integers(0, 30))
    def make(self, max_blocks: int, max_idle: int) -> None:
        self.cache = made(max_blocks, max_idle)
        self.max_blocks, self.max_idle = max_blocks, max_idle
        self.open: list[tuple[Lease, list[int], int]] = []  # tokens, and how many are computed
        self.remembered: list[list[int]] = []
        self.stale: list[Lease] = []  # made before `clear`
        self.evicts = False

    # The beginning of one of two texts, and perhaps something else.
    texts = st.builds(
        lambda number, length, end: [*range(number, number + length), *([7] * end)],
        st.integers(0, 1),
        st.sampled_from([1, 31, 32, 33, 64, 65, 90, 96, 97]),
        st.sampled_from([0, 0, 1, 32, 40]),
    )

    @stateful.rule(text=texts, more=st.integers(0, 70))
    def begin(self, text: list[int], more: int) -> None:
        needed = -(-(len(text) + more) // BLOCK)
        if needed > self.max_blocks:
            with pytest.raises(ValueError, match="limit"):
                self.cache.begin(text, len(text) + more)
            return
        held = self.cache.stats()["held_bytes"] // SIZE
        before = self.cache.stats()["evicted_blocks"]
        lease = self.cache.begin(text, len(text) + more)
        if lease is None:
            assert needed > self.max_blocks - held
            return
        self.evicts |= self.cache.stats()["evicted_blocks"] > before
        most = max((common(text[:-1], other) for other in self.remembered), default=0)
        assert lease.num_known == most if not self.evicts else lease.num_known <= most
        assert len(lease.blocks) == len(set(lease.blocks)) == needed
        self.open.append((lease, text, lease.num_known))

    @stateful.precondition(lambda self: self.open)
    @stateful.rule(data=st.data(), part=st.sampled_from([0.5, 1.0, 1.0]), commits=st.booleans())
    def compute(self, data: st.DataObject, part: float, commits: bool) -> None:
        index = data.draw(st.integers(0, len(self.open) - 1))
        lease, text, start = self.open[index]
        if start == len(text):
            text = (text + [7] * 70)[: len(lease.blocks) * BLOCK]
        end = start + int(part * (len(text) - start))
        others = {block for other, *_ in self.open if other is not lease for block in other.blocks}
        for place in range(start, end):
            assert lease.blocks[place // BLOCK] not in others
        write(self.cache, lease, text[:end], start)
        if commits:
            lease.commit(text[:end])
            self.remember(lease, text[: end // BLOCK * BLOCK])
        self.open[index] = (lease, text, end)

    @stateful.precondition(lambda self: self.open)
    @stateful.rule(data=st.data(), how=st.sampled_from(["remember", "part", "forget", "drop"]))
    def close(self, data: st.DataObject, how: str) -> None:
        lease, text, end = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        before = self.cache.stats()["evicted_blocks"]
        if how in ("remember", "part"):
            end = end if how == "remember" else end // 2
            lease.close(text[:end])
            self.remember(lease, text[:end])
        elif how == "forget":
            lease.close(None)
        self.stale = [other for other in self.stale if other is not lease]
        del lease
        self.cache.stats()
        self.evicts |= self.cache.stats()["evicted_blocks"] > before

    def remember(self, lease: Lease, text: list[int]) -> None:
        if lease not in self.stale:
            self.remembered.append(text)

    @stateful.rule()
    def clear(self) -> None:
        self.cache.clear()
        self.remembered.clear()
        self.stale = [lease for lease, *_ in self.open]

    @stateful.invariant()
    def everyone_reads_its_own(self) -> None:
        for lease, text, end in getattr(self, "open", ()):
            wanted = [value(text[: place + 1]) for place in range(end)]
            assert read(self.cache, lease, end) == wanted

    @stateful.invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "cache"):
            return
        held = self.cache.stats()
        assert held["store_bytes"] == self.cache.store.num_blocks * SIZE <= self.max_blocks * SIZE
        assert held["held_bytes"] + held["idle_bytes"] <= held["store_bytes"]
        assert held["idle_bytes"] <= self.max_idle * SIZE
        assert held["num_leases"] == len(self.open)
        blocks = {block for lease, *_ in self.open for block in lease.blocks}
        assert held["held_bytes"] >= len(blocks) * SIZE
        if not self.open:
            assert held["held_bytes"] == 0

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        for lease, text, end in self.open:
            lease.close(text[:end])
        self.cache.clear()
        free = sorted(self.cache._free)
        assert free == list(range(self.cache.store.num_blocks))


def common(first: list[int], second: list[int]) -> int:
    places = range(min(len(first), len(second)))
    return next((n for n in places if first[n] != second[n]), len(places))


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=100, stateful_step_count=40)
