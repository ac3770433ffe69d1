"""Continuous batching: one thread computes for all requests, which come and go between its steps
(Orca, Yu et al. 2022, section 3; pieces of prompts between tokens of answers: Sarathi, Agrawal et
al. 2023).

A step is at most one piece of a picture, then one pass of the decoder over one batch; pieces for a
small tower may be encoded beside it, see `encoding.py`:

    a token of every answer that goes on + up to `piece_tokens` tokens of prompts, oldest first

so an answer waits for two pieces at most, however long the prompts of others are.
"""

import asyncio
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch

from .block_store import BLOCK
from .decoder import Decoder
from .encoding import PictureEncoding
from .features import FeatureCache
from .inbox import Inbox
from .kv_cache import BlockCache
from .limits import EngineLimits, QueueFullError
from .prompt import Medium
from .sampling import choose
from .scored import Scored
from .sequence import Generation, Part
from .threads import begin, register
from .vision import VisionEncoder

_ALONE = 4  # pieces of a prompt at a time, while no answer waits for its next token
_BESIDE_S = 1.0  # at most, that a step waits for a picture that is encoded beside it
_COUNTS = {
    "requests": ("submitted", "finished", "cancelled", "failed"),
    "tokens": ("prompt", "reused", "new", "guessed"),
    "steps": ("decoder", "prompt_pieces"),
}


class Scheduler:
    """Answers what is submitted, in one thread that exists while there is work."""

    def __init__(
        self,
        decoder: Decoder,
        encoder: VisionEncoder | None,
        cache: BlockCache,
        features: FeatureCache,
        limits: EngineLimits,
        turn: AbstractContextManager[Any],
    ):
        self._decoder = decoder
        self._cache = cache
        self._features = features
        self._limits = limits
        self._piece_tokens = limits.of_piece()
        self._turn = turn
        self._lock = threading.Lock()
        self._step_lock = threading.RLock()  # held while a step is computed; taken first
        self._wake = threading.Event()
        self._pictures = PictureEncoding(encoder, features, _waking(self))
        self._thread: threading.Thread | None = None
        self._closed = False
        self._is_silent = False
        self._arrived: deque[Generation] = deque()
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._counts: Counter[str] = Counter()
        self._inboxes: dict[asyncio.AbstractEventLoop, Inbox] = {}
        register(self)

    def inbox(self, loop: asyncio.AbstractEventLoop) -> Inbox:
        """Where the events of answers go that are read from this loop."""
        with self._lock:
            for other in [other for other in self._inboxes if other.is_closed()]:
                del self._inboxes[other]
            return self._inboxes.setdefault(loop, Inbox(loop))

    def submit(self, *generations: Generation) -> None:
        """Answer them, after those that came before; any thread may call.

        Raises:
            QueueFullError: too many wait already; none of these was taken.
            ValueError: the engine is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError("The engine is closed. Load the model again to ask it.")
            limits = self._limits
            num_waiting = len(self._arrived) + len(self._waiting)
            num_after = num_waiting + len(self._running) + len(generations)
            if num_after > limits.max_running + limits.max_waiting:
                raise QueueFullError(
                    f"{len(self._running)} requests are being answered and {num_waiting} wait; the "
                    f"limits are max_running {limits.max_running} and max_waiting "
                    f"{limits.max_waiting}. Ask again later, or raise them."
                )
            now = time.perf_counter()
            for generation in generations:
                generation.submitted = now
            self._arrived.extend(generations)
            self._counts["requests submitted"] += len(generations)
            if self._thread is None:
                self._thread = begin(self)
        self._wake.set()

    def stats(self) -> dict[str, dict[str, int]]:
        """Counters: `requests`, `tokens`, and `steps` with the pieces of prompts and pictures."""
        with self._lock:
            counts = {
                group: {name: self._counts[f"{group} {name}"] for name in names}
                for group, names in _COUNTS.items()
            }
            pictures = self._pictures
            counts["steps"] |= {"vision": pictures.num_pieces, "slices": pictures.num_slices}
            counts["requests"] |= {
                "running": len(self._running),
                "waiting": len(self._arrived) + len(self._waiting),
            }
            return counts

    def close(self, silently: bool = False) -> None:
        """End all answers with an error, wait for the thread, and forget what is remembered.

        Args:
            silently: when the interpreter ends, nobody reads the errors.
        """
        with self._lock:
            self._closed = True
            self._is_silent = silently
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._pictures.close()
        self._cache.clear()
        self._features.clear()

    def hold(self) -> None:
        """Compute nothing until `go_on`: the process is about to be forked."""
        self._step_lock.acquire()
        self._lock.acquire()
        self._pictures.wait()

    def go_on(self, in_child: bool) -> None:
        """After `hold`. The thread is the parent's, with what it answers; a child has its own."""
        self._lock.release()
        self._step_lock.release()
        if in_child:
            self._thread, self._wake = None, threading.Event()
            self._pictures.forget_threads()
            self.fail_all(ValueError("The process was forked. Ask again in the new one."))

    def step(self) -> bool:
        """Compute one token of every answer, or a piece of a prompt; False when there is no work.

        Called by the scheduler's own thread.
        """
        with self._step_lock:
            try:
                return self._step()
            finally:
                self._tell()

    def _step(self) -> bool:
        self._wake.clear()
        with self._lock:
            self._waiting.extend(self._arrived)
            self._arrived.clear()
        self._tell()
        if self._closed:
            if not self._is_silent:
                self.fail_all(ValueError("The engine was closed before the answer was complete."))
            return False
        self._drop_ended()
        if not self._running and not self._waiting:
            return False
        with self._turn, torch.inference_mode():
            parts = self._next_parts(may_encode=not self._encode_beside())
            if parts:
                with self._pictures.sharing():
                    self._compute(parts)
        if not parts and self._pictures.num_beside:
            self._flush()
            self._wake.wait(_BESIDE_S)
        return True

    def _tell(self) -> None:
        """Give callers the tokens that have come; where all that is next is to compute their next
        ones, that waits until this thread is in the middle of it, see `Decoder.forward`."""
        goes_on = self._running and not self._waiting and not self._closed
        goes_on = goes_on and isinstance(self._turn, nullcontext)  # else it may be long in coming
        if not goes_on or any(generation.is_reading for generation in self._running):
            self._flush()

    def _encode_beside(self) -> bool:
        """Have other threads encode the pictures of those that come next, where there are more
        than one; whether they have any."""
        pictures = self._pictures
        is_busy = pictures.num_beside > 0
        if not pictures.has_room:
            return is_busy
        may_run = False  # known once a picture is found: all modules are looked at for it
        wanted: dict[Hashable, Medium] = {}
        for generation in chain(self._running, self._waiting):
            medium = generation.unencoded()
            if medium is None or medium.error is not None or pictures.is_beside(medium):
                continue
            if medium.key in self._features or self._is_computed(generation, medium):
                continue
            may_run = may_run or pictures.runs_beside()
            if not may_run:
                break
            wanted.setdefault(medium.key or id(medium), medium)
            if len(wanted) > 1 or is_busy:
                is_busy = True
                for each in wanted.values():
                    pictures.begin(each)
                wanted.clear()
                if not pictures.has_room:
                    break
        return is_busy

    def _is_computed(self, generation: Generation, medium: Medium) -> bool:
        """Whether a prompt that waits will start behind a picture, from what is remembered."""
        is_waiting = generation.lease is None
        return is_waiting and self._cache.known(generation.tokens) > medium.places[-1]

    def _drop_ended(self) -> None:
        """Let go of what nobody waits for, and what came to its time limit."""
        now = time.perf_counter()
        for generation in [*self._running, *self._waiting]:
            if generation.is_cancelled:
                self._remove(generation)
                self._counts["requests cancelled"] += generation.is_request
                generation.end("stop")
            elif generation.is_late(now):
                self._finish(generation, "time")

    def _next_parts(self, may_encode: bool) -> list[Part]:
        """The batch of this step; may encode one piece of a picture for a prompt on the way."""
        parts = []
        for generation in self._running:
            if generation.num_pending == 1:
                guesses = generation.guesses() if generation.new_ids else []
                parts.append(Part(generation, [generation.ids[-1], *guesses], len(guesses)))
        room = self._piece_tokens * (1 if parts else _ALONE)
        for generation in [g for g in self._running if g.num_pending > 1]:
            may_encode = self._encode_for(generation, may_encode)
            room -= self._take(generation, room, parts)
        while room > 0 and self._waiting and len(self._running) < self._limits.max_running:
            if any(generation.unencoded() is not None for generation in self._running):
                break  # nobody overtakes it: the next may ask about the same picture
            generation = self._waiting[0]
            try:
                if not self._admit(generation, parts):
                    break
            except ValueError as error:  # it can never fit
                self._fail(generation, error)
                continue
            may_encode = self._encode_for(generation, may_encode)
            room -= self._take(generation, room, parts)
        return parts

    def _admit(self, generation: Generation, parts: Sequence[Part]) -> bool:
        """Give the first of those that wait its memory; False when it must wait on."""
        # What another prompt is just computing is there after this step.
        prompts = [part.generation.prompt.tokens for part in parts if not part.generation.new_ids]
        if prompts:
            next_known = self._cache.known(generation.tokens) + BLOCK
            beginning = generation.tokens[:next_known]
            if len(generation.tokens) > next_known and any(
                tokens[:next_known] == beginning for tokens in prompts
            ):
                return False
        if generation.elder is not None and generation.elder.is_reading:
            return False
        lease = self._cache.begin(generation.tokens, generation.num_total, generation.beside())
        if lease is None:
            return False
        generation.admit(lease)
        with self._lock:
            self._waiting.popleft()
            self._running.append(generation)
        if generation.is_request:
            self._counts["tokens prompt"] += len(generation.ids)
            self._counts["tokens reused"] += lease.num_known
        return True

    def _take(self, generation: Generation, room: int, parts: list[Part]) -> int:
        """Put the next piece of a prompt into the batch; returns its tokens."""
        if room <= 0 or generation not in self._running or generation.unencoded() is not None:
            return 0
        start = generation.num_computed
        ids = generation.ids[start : start + min(room, generation.num_pending)]
        parts.append(Part(generation, ids))
        self._counts["steps prompt_pieces"] += 1
        return len(ids)

    def _encode_for(self, generation: Generation, may_encode: bool) -> bool:
        """Encode one piece of a picture here, if this prompt lacks one; False when that was done,
        or may not be."""
        try:
            while (medium := generation.unencoded()) is not None:
                if medium.error is not None:
                    raise medium.error
                is_new = medium.key is not None and not medium.encoded
                if is_new and (may_encode or medium.key in self._features):
                    medium.features = self._features.get(medium.key)
                    if medium.features is not None:
                        continue
                if may_encode:
                    self._pictures.encode(medium)
                return False
        except Exception as error:  # of this picture; other requests go on
            self._fail(generation, error)
        return may_encode

    def _compute(self, parts: list[Part]) -> None:
        """One pass of the decoder, and the next token of every answer in it."""
        try:
            logits = self._logits(parts)
        except Exception as error:
            if len(parts) == 1:
                self._fail(parts[0].generation, error)
                return
            for part in parts:  # one of them is to blame: the others go on
                self._compute([part])
            return
        self._counts["steps decoder"] += 1
        rows = iter(logits.split([part.num_logits for part in parts]))
        live: list[tuple[Part, torch.Tensor]] = []
        for part in parts:
            own, generation = next(rows), part.generation
            if isinstance(generation, Scored):
                self._score(generation, len(part.ids), own)
                continue
            if part.num_logits:
                generation.num_computed += len(part.ids) - part.num_guessed
                live.append((part, own))
            else:
                generation.num_computed += len(part.ids)
            self._commit(generation)
        for place in range(1 + max((part.num_guessed for part, _ in live), default=0)):
            live = self._accept(live, place)

    def _score(self, scored: Scored, num_ids: int, logits: torch.Tensor) -> None:
        """Read what is wanted of a part; the end of a prompt is followed by its paths."""
        scored.num_computed += num_ids
        self._commit(scored)
        if not len(logits):
            return
        try:
            is_complete = scored.take(logits)
        except ValueError as error:
            self._fail(scored, error)
            return
        if is_complete:
            self._finish(scored, "stop")
            with self._lock:
                self._waiting.extendleft(reversed(scored.followers))

    def _logits(self, parts: Sequence[Part]) -> torch.Tensor:
        """Logits of the last tokens of each part, one after the other."""
        device = self._decoder.device
        ids = torch.tensor([token for part in parts for token in part.ids], device=device)
        embeds = self._decoder.embed(ids)
        keep: list[int] = []
        start = 0
        for part in parts:
            self._show(part, embeds[start : start + len(part.ids)])
            start += len(part.ids)
            keep += range(start - part.num_logits, start)
        spans, store = [part.span for part in parts], self._cache.store
        return self._decoder.forward(embeds, spans, store, keep, self._flush)

    def _show(self, part: Part, embeds: torch.Tensor) -> None:
        """Put features of pictures in place of their placeholders' embeddings."""
        generation = part.generation
        first, end = generation.num_computed, generation.num_computed + len(part.ids)
        for medium in generation.prompt.media:
            if medium.places[-1] < first or medium.places[0] >= end:
                continue
            chosen = [i for i, place in enumerate(medium.places) if first <= place < end]
            if not chosen:
                continue  # between two slices
            places = torch.tensor([medium.places[i] - first for i in chosen], device=embeds.device)
            assert medium.features is not None
            own = medium.features[chosen[0] : chosen[-1] + 1]
            embeds[places] = own.to(embeds.device, embeds.dtype)

    def _accept(
        self, live: list[tuple[Part, torch.Tensor]], place: int
    ) -> list[tuple[Part, torch.Tensor]]:
        """Choose the token after the guesses before `place`; returns the answers whose next guess
        was right."""
        if not live:
            return []
        logits = torch.cat([rows[place : place + 1] for _, rows in live])
        choices = choose(logits, [part.generation.chooser for part, _ in live])
        going_on = []
        for (part, rows), choice in zip(live, choices, strict=True):
            generation = part.generation
            if isinstance(choice, Exception):
                self._fail(generation, choice)
                continue
            try:
                reason = generation.accept(choice)
            except Exception as error:  # while its text was looked at for the end
                self._fail(generation, error)
                continue
            self._counts["tokens new"] += 1
            if reason is not None:
                self._finish(generation, reason)
            elif place < part.num_guessed and part.ids[place + 1] == choice.token:
                generation.num_computed += 1
                self._counts["tokens guessed"] += 1
                going_on.append((part, rows))
        return going_on

    def _commit(self, generation: Generation) -> None:
        """Let others share what is computed, a block at a time."""
        if not generation.prompt.can_share or generation.lease is None:
            return
        whole = generation.num_computed - generation.num_computed % BLOCK
        if whole > generation.num_shared:
            generation.num_shared = whole
            generation.lease.commit(generation.tokens[:whole])

    def _finish(self, generation: Generation, reason: Any) -> None:
        self._remove(generation)
        self._counts["requests finished"] += generation.is_request
        generation.end(reason)

    def _fail(self, generation: Generation, error: BaseException) -> None:
        self._remove(generation)
        self._counts["requests failed"] += generation.is_request
        generation.fail(error)

    def _remove(self, generation: Generation) -> None:
        with self._lock:
            for group in (self._running, self._waiting):
                if generation in group:
                    group.remove(generation)

    def fail_all(self, error: BaseException) -> None:
        """End all answers with an error."""
        with self._lock:
            left = [*self._running, *self._waiting, *self._arrived]
            for group in (self._running, self._waiting, self._arrived):
                group.clear()
        for generation in left:
            generation.fail(error)
        self._flush()

    def _flush(self) -> None:
        for generation in self._running:
            generation.tell()
        for inbox in list(self._inboxes.values()):
            inbox.flush()

    def work(self) -> bool:
        """Compute while there is something to do; False when the thread should end."""
        try:
            while self.step():
                pass
        except BaseException as error:  # of the engine itself
            self.fail_all(error)
        return not self._closed

    def rest(self) -> bool:
        """Whether the thread ends, for there is nothing to do."""
        with self._lock:
            if self._arrived and not self._closed:
                return False
            self._thread = None
            return True

    @property
    def wake_event(self) -> threading.Event:
        return self._wake


def _waking(scheduler: Scheduler) -> Callable[[], None]:
    """A function that wakes a scheduler, and does not keep it."""
    reference = weakref.ref(scheduler)

    def wake() -> None:
        if (found := reference()) is not None:
            found.wake_event.set()

    return wake
