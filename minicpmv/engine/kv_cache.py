"""Keys and values of all sequences in blocks, shared by those that begin alike.

Blocks of `BLOCK` tokens are given out one by one, so that no memory lies between sequences
(PagedAttention, Kwon et al. 2023). A block that is full is entered in a tree: a node is a block,
its tokens and the node of the block before it. A prompt that begins as an earlier one takes over
its blocks, and a copy of the one in which they part, so that what is known is exact to the token.

A block is *held* while a lease needs it, *idle* while only the tree remembers it, and else free.
Whoever holds a node holds all that it continues, so the tree below an idle node is idle, and the
order in which blocks became idle has the end of a text before its beginning: that order is the one
in which they are forgotten.
"""

import heapq
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence

from .block_store import BLOCK, BlockStore

Tokens = Sequence[Hashable]


class _Node:
    """A block that others may share; one of fewer tokens than `BLOCK` is only copied from."""

    __slots__ = ("block", "children", "num_leases", "parent", "starts", "tokens")

    def __init__(self, tokens: tuple[Hashable, ...], block: int, parent: "_Node | None"):
        self.tokens = tokens
        self.block = block
        self.parent = parent
        self.num_leases = 0
        self.children: dict[tuple[Hashable, ...], _Node] = {}
        self.starts: dict[Hashable, list[_Node]] = {}  # the children by their first token

    def add(self, child: "_Node") -> None:
        self.children[child.tokens] = child
        self.starts.setdefault(child.tokens[0], []).append(child)

    def remove(self, child: "_Node") -> None:
        del self.children[child.tokens]
        alike = self.starts[child.tokens[0]]
        alike.remove(child)
        if not alike:
            del self.starts[child.tokens[0]]

    def closest(self, tokens: tuple[Hashable, ...]) -> "tuple[_Node | None, int]":
        """The child with the longest common beginning, and its length in tokens."""
        found, length = None, 0
        for child in self.starts.get(tokens[0], ()) if tokens else ():
            if child.tokens[: length + 1] == tokens[: length + 1]:
                found, length = child, _common_length(child.tokens, tokens)
                if length == len(tokens):
                    break
        return found, length


class BlockCache:
    """Gives blocks to sequences, and remembers the beginnings of texts until there is no room.

    Leases are made, committed and closed by one thread; `stats` may be asked by any.
    """

    def __init__(self, store: BlockStore, max_bytes: int, max_idle_bytes: int):
        """
        Args:
            max_bytes: of all blocks; the store grows up to it, as they are needed.
            max_idle_bytes: of the blocks that no lease holds and the tree remembers.
        """
        self.store = store
        self.max_bytes = max_bytes
        self.max_idle_bytes = max_idle_bytes
        self._max_blocks = max_bytes // store.bytes_per_block
        if store.num_blocks > self._max_blocks:
            raise ValueError(
                f"The store has {store.num_blocks * store.bytes_per_block:,} bytes and the limit "
                f"is {max_bytes:,}; begin with a smaller store, or raise the limit."
            )
        store.reserve(self._max_blocks)
        self._max_idle = max(max_idle_bytes // store.bytes_per_block, 0)
        self._free = list(range(store.num_blocks))  # a heap: low numbers are used again first
        self._root = _Node((), -1, None)
        self._idle: OrderedDict[_Node, None] = OrderedDict()  # the first is forgotten first
        self._abandoned: deque[_Holding] = deque()
        self._lock = threading.Lock()
        self._num_leases = 0
        self._prompt_tokens = 0
        self._known_tokens = 0
        self._evicted = 0

    def begin(
        self, tokens: Tokens, num_total: int, beside: "tuple[Lease, int] | None" = None
    ) -> "Lease | None":
        """Blocks for a sequence, the first of them with what is known of its prompt.

        At most all tokens but the last are known: that one must be computed, for its logits.

        Args:
            tokens: of the prompt: ids, and the key of its picture in place of each placeholder.
            num_total: most tokens that the sequence will have; room for them is held from now on.
            beside: an open lease that begins alike, and how many of its tokens are computed: the
                block that it has not filled yet is copied, too.

        Returns:
            None where there is no room now; there is when enough leases have been closed.

        Raises:
            ValueError: there can never be room.
        """
        if not 0 < len(tokens) <= num_total:
            raise ValueError(
                f"A sequence begins with {len(tokens)} tokens and has room for {num_total}; it "
                "needs one at least, and room for all of them."
            )
        num_needed = -(-num_total // BLOCK)
        if num_needed > self._max_blocks:
            raise ValueError(
                f"{num_total} tokens need {num_needed * self.store.bytes_per_block:,} bytes of "
                f"keys and values, and the limit is {self.max_bytes:,}. Shorten the text, lower "
                "`max_new_tokens`, or raise the limit."
            )
        with self._lock:
            self._collect()
            chain, source, num_copied = self._find(tokens)
            unfinished = None
            if beside is not None:
                alike = beside[0]._alike(tokens, beside[1]) - len(chain) * BLOCK
                if num_copied < alike < BLOCK:
                    unfinished, source, num_copied = beside[0].blocks[len(chain)], None, alike
            num_new = num_needed - len(chain)
            # What is taken over is not there to be forgotten; what is copied may be, at the last.
            num_idle = len(self._idle) - sum(not node.num_leases for node in chain)
            if num_new > len(self._free) + self._max_blocks - self.store.num_blocks + num_idle:
                return None
            self._grow(num_new)
            for node in chain:
                if not node.num_leases:
                    del self._idle[node]
                node.num_leases += 1
            if source in self._idle:
                assert source is not None
                self._idle.move_to_end(source)
            while len(self._free) < num_new:
                if source is not None and next(iter(self._idle)) is source:
                    break
                self._evict()
            blocks = [node.block for node in chain]
            if source is not None and len(self._free) < num_new:
                # The one to copy is the last that is left: it changes hands as it is.
                self._evict()
                self._free.remove(source.block)
                heapq.heapify(self._free)
                blocks.append(source.block)
                num_new -= 1
                source = None
            blocks += [heapq.heappop(self._free) for _ in range(num_new)]
            if source is not None:
                self.store.copy_block(source.block, blocks[len(chain)], num_copied)
            if unfinished is not None:
                self.store.copy_block(unfinished, blocks[len(chain)], num_copied)
            num_known = len(chain) * BLOCK + num_copied
            self._num_leases += 1
            self._prompt_tokens += len(tokens)
            self._known_tokens += num_known
            return Lease(self, _Holding(self._root, blocks, chain), num_known, list(tokens))

    def known(self, tokens: Tokens) -> int:
        """How many tokens of a prompt `begin` would find; nothing is held or changed."""
        with self._lock:
            chain, _, num_copied = self._find(tokens)
            return len(chain) * BLOCK + num_copied

    def clear(self) -> None:
        """Forget all that is remembered: the weights have changed.

        Blocks that are held stay with their leases, and are forgotten when they are released.
        """
        with self._lock:
            self._collect()
            for node in self._idle:
                heapq.heappush(self._free, node.block)
            self._idle.clear()
            self._root = _Node((), -1, None)

    def stats(self) -> dict[str, int]:
        """Bytes held, idle and of the store, and how many tokens of prompts were known."""
        with self._lock:
            self._collect()
            size = self.store.bytes_per_block
            num_used = self.store.num_blocks - len(self._free)
            return {
                "num_leases": self._num_leases,
                "held_bytes": (num_used - len(self._idle)) * size,
                "idle_bytes": len(self._idle) * size,
                "store_bytes": self.store.num_blocks * size,
                "max_bytes": self.max_bytes,
                "max_idle_bytes": self.max_idle_bytes,
                "prompt_tokens": self._prompt_tokens,
                "known_tokens": self._known_tokens,
                "evicted_blocks": self._evicted,
            }

    def _find(self, tokens: Tokens) -> tuple[list[_Node], _Node | None, int]:
        """Whole blocks that are known, the one to copy from, and how many tokens of it."""
        most = len(tokens) - 1
        node, chain = self._root, []
        start = 0
        while start + BLOCK <= most:
            child = node.children.get(tuple(tokens[start : start + BLOCK]))
            if child is None:
                break
            chain.append(child)
            node = child
            start += BLOCK
        source, num_copied = node.closest(tuple(tokens[start : min(start + BLOCK, most)]))
        return chain, source, num_copied

    def _grow(self, num_new: int) -> None:
        """Make the store larger where free blocks are too few, twice as large if it must move."""
        held = self.store.num_blocks
        missing = num_new - len(self._free)
        wanted = min(held + missing, self._max_blocks)
        if wanted > self.store.capacity:
            wanted = min(max(wanted, 2 * held), self._max_blocks)
        if missing > 0 and wanted > held:
            self.store.grow(wanted)
            self._free += range(held, wanted)  # the largest at the end: still a heap

    def _evict(self) -> None:
        """Forget the block that has been idle for longest."""
        node, _ = self._idle.popitem(last=False)
        self._forget(node)
        self._evicted += 1

    def _forget(self, node: _Node) -> None:
        assert node.parent is not None
        assert not node.children
        node.parent.remove(node)
        node.parent = None
        heapq.heappush(self._free, node.block)

    def _enter(self, parent: _Node, tokens: tuple[Hashable, ...], block: int) -> _Node | None:
        """Enter a block; None where one that is there says as much.

        What is there and says less, the end of an earlier text, is forgotten.
        """
        for other in list(parent.starts.get(tokens[0], ())):
            length = len(other.tokens)
            if length >= len(tokens):
                if other.tokens[: len(tokens)] == tokens:
                    if other in self._idle:
                        self._idle.move_to_end(other)
                    return None
            elif tokens[:length] == other.tokens:
                del self._idle[other]
                self._forget(other)
        node = _Node(tokens, block, parent)
        parent.add(node)
        return node

    def _commit(self, held: "_Holding", tokens: list[Hashable]) -> None:
        """Enter the whole blocks of `tokens`, as far as they are not in the tree."""
        if held.root is not self._root:
            return  # made before `clear`
        for start in range(len(held.chain) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            parent = held.chain[-1] if held.chain else self._root
            own = tuple(tokens[start : start + BLOCK])
            node = parent.children.get(own)
            if node is None:
                node = self._enter(parent, own, held.blocks[start // BLOCK])
                assert node is not None
            elif not node.num_leases:
                # Another computed the same, and has gone. Its block is held for what follows it.
                del self._idle[node]
            node.num_leases += 1
            held.chain.append(node)

    def _release(self, held: "_Holding", tail: tuple[Hashable, ...] = ()) -> None:
        """Let go of blocks; those in the tree become idle, the end of the text first."""
        remembers = held.root is self._root
        num_chained = len(held.chain)
        kept = None
        if tail and remembers:
            assert len(tail) < BLOCK
            parent = held.chain[-1] if held.chain else self._root
            kept = self._enter(parent, tail, held.blocks[num_chained])
            if kept is not None:
                self._idle[kept] = None
        for index, block in enumerate(held.blocks):
            is_shared = index < num_chained and held.chain[index].block == block
            if not is_shared and not (kept is not None and kept.block == block):
                heapq.heappush(self._free, block)
        for node in reversed(held.chain):
            node.num_leases -= 1
            if node.num_leases:
                continue
            if remembers:
                self._idle[node] = None
            else:
                heapq.heappush(self._free, node.block)
        while len(self._idle) > self._max_idle:
            self._evict()
        self._num_leases -= 1

    def _collect(self) -> None:
        """Release what was dropped without being closed."""
        while self._abandoned:
            self._release(self._abandoned.popleft())


class _Holding:
    """What a lease holds: its blocks, and the nodes of the tree that have its beginning.

    The block of a node is that of the lease, or that of another that computed the same at the
    same time.
    """

    __slots__ = ("blocks", "chain", "root")

    def __init__(self, root: _Node, blocks: list[int], chain: list[_Node]):
        self.root = root
        self.blocks = blocks
        self.chain = chain


class Lease:
    """The blocks of one sequence, until it is closed.

    Attributes:
        blocks: their numbers, in the order of the text; they do not change.
        num_known: tokens of the prompt whose keys and values were there at the beginning.
    """

    def __init__(self, cache: BlockCache, held: _Holding, num_known: int, tokens: list[Hashable]):
        self.blocks: list[int] = list(held.blocks)
        self.num_known = num_known
        self._cache = cache
        self._held: _Holding | None = held
        self._num_prompt = len(tokens)
        self._tokens = tokens  # of the prompt, and then all that were committed

    def commit(self, tokens: Tokens) -> None:
        """Let others share the whole blocks of `tokens`, which are computed.

        Args:
            tokens: the sequence from its beginning, as far as keys and values are written.

        Raises:
            ValueError: the lease is closed, `tokens` are another sequence, or more than it holds.
        """
        held = self._held
        if held is None:
            raise ValueError("This lease is closed; tokens are committed before that.")
        if len(tokens) > self._num_prompt and len(tokens) // BLOCK <= len(held.chain):
            return  # another token of the answer, and no whole block more
        known = self._checked(tokens)
        with self._cache._lock:
            self._cache._commit(held, known)

    def close(self, tokens: Tokens | None) -> None:
        """Give the blocks back; a second time does nothing.

        Args:
            tokens: as of `commit`, to be remembered with the part of a block at their end; None to
                remember only what was committed.

        Raises:
            ValueError: as by `commit`; the blocks are given back all the same.
        """
        held = self._held
        if held is None:
            return
        known: list[Hashable] | None = None
        try:
            if tokens is not None:
                known = self._checked(tokens)
        finally:
            self._held = None
            with self._cache._lock:
                if known is not None:
                    self._cache._commit(held, known)
                start = len(held.chain) * BLOCK
                self._cache._release(held, tuple(known[start:]) if known is not None else ())

    def __del__(self) -> None:
        if getattr(self, "_held", None) is not None and self._held is not None:
            # Locks must not be taken here, which may be anywhere in the cache's own code.
            self._cache._abandoned.append(self._held)

    def _alike(self, tokens: Tokens, num_computed: int) -> int:
        """How many tokens of a prompt are computed here, but for its last one; 0 if it parts."""
        length = min(num_computed, len(tokens) - 1)
        is_alike = self._held is not None and list(tokens[:length]) == self._tokens[:length]
        return length if is_alike else 0

    def _checked(self, tokens: Tokens) -> list[Hashable]:
        known = list(tokens)
        if len(known) > len(self.blocks) * BLOCK:
            raise ValueError(
                f"{len(known)} tokens were committed to a lease of {len(self.blocks)} blocks, "
                f"{len(self.blocks) * BLOCK} tokens; begin with a larger `num_total`."
            )
        length = min(len(known), len(self._tokens))
        if known[:length] != self._tokens[:length]:
            place = _common_length(tuple(known), tuple(self._tokens))
            raise ValueError(
                f"Token {place} was committed as {known[place]!r} and is {self._tokens[place]!r} "
                "in this lease; commit the sequence that it began with."
            )
        if len(known) > len(self._tokens):
            self._tokens = known
        return known


def _common_length(first: tuple[Hashable, ...], second: tuple[Hashable, ...]) -> int:
    """How many entries two sequences begin with in common."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
