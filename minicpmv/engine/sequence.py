"""One answer in the making, as the scheduler sees it."""

import queue
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .answer import FinishReason
from .attention import Span
from .kv_cache import Lease
from .lookup import Lookup
from .plan import GenerationPlan
from .prompt import Medium, Prompt
from .sampling import Choice, Chooser, Rules

_MOST_FORCED = 32  # tokens that a constraint leaves no choice about, computed in one pass


class End(NamedTuple):
    """The last event of an answer."""

    reason: FinishReason


Event = Choice | End | BaseException


class Events(Protocol):
    """Where the events of one answer go."""

    def put(self, event: Event, /) -> None: ...


@dataclass(eq=False)
class Generation:
    """An answer in the making: written by the thread of the scheduler, read by the caller's.

    Fields:
        prompt: its tokens; `ids` and `tokens` are those of the answer, too.
        begin: when the call came, on the clock of `time.perf_counter`.
        elder: another answer to the same prompt, submitted before; this one waits until its prompt
            is computed, and goes on from there.
        events: what the caller reads: a `Choice` per token, then `End` or an error.
        outbox: where these go in place of `events`.
        num_cached: tokens of the prompt that were there when it was admitted.
        lease: its keys and values, from the time it is admitted.
        num_computed: tokens whose keys and values are in the cache; num_shared: of these, in
            blocks that others may use.
        submitted, admitted: when it was given to the scheduler, and when its turn came.
        first, last: when its first and its newest token came.
        on_end: called when it is complete or has failed.
        reason: why it ended, for the caller's thread.
        is_request: False for what is counted with another.
    """

    prompt: Prompt
    plan: GenerationPlan
    begin: float
    on_end: Callable[[], None] | None = None
    elder: "Generation | None" = None
    ids: list[int] = field(init=False)
    tokens: list[Hashable] = field(init=False)
    new_ids: list[int] = field(default_factory=list)
    events: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)
    outbox: Events | None = None
    num_cached: int = 0
    lease: Lease | None = None
    num_computed: int = 0
    num_shared: int = 0
    submitted: float | None = None
    admitted: float | None = None
    first: float | None = None
    last: float | None = None
    reason: FinishReason = "stop"
    is_request: bool = True
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _has_ended: bool = False
    _untold: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = list(self.prompt.ids)
        self.tokens = list(self.prompt.tokens)
        self.chooser = Chooser(Rules.of(self.plan), self.ids, self.plan.matcher())
        self._stops = None if self.plan.stops is None else self.plan.stops()
        self._lookup = Lookup(self.ids) if self.plan.lookup else None

    @property
    def queue_seconds(self) -> float:
        """How long it waited for its turn."""
        if self.submitted is None or self.admitted is None:
            return 0.0
        return self.admitted - self.submitted

    @property
    def num_total(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.prompt.ids) + int(self.plan.config.max_new_tokens)

    @property
    def num_pending(self) -> int:
        """Tokens that are known and not computed; 1 while the answer goes on."""
        return len(self.ids) - self.num_computed

    def num_logits(self, num_ids: int, num_guessed: int = 0) -> int:
        """Of how many of the next `num_ids` tokens, the last ones, logits are needed: 0 where the
        prompt goes on.

        Args:
            num_guessed: tokens at the end that are not known yet.
        """
        return 1 + num_guessed if num_ids - num_guessed == self.num_pending else 0

    @property
    def is_reading(self) -> bool:
        """Whether its prompt will be computed and is not yet."""
        return not self.new_ids and not self._has_ended

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Nobody reads the answer any more."""
        self._cancelled.set()

    def admit(self, lease: Lease) -> None:
        """Its memory is there, the beginning of its prompt perhaps computed."""
        self.lease, self.elder = lease, None
        self.num_computed = self.num_shared = self.num_cached = lease.num_known
        self.admitted = time.perf_counter()

    def beside(self) -> tuple[Lease, int] | None:
        """The memory of its elder, and how much of it is computed, for `BlockCache.begin`."""
        if self.elder is None or self.elder.lease is None or not self.prompt.can_share:
            return None
        return self.elder.lease, self.elder.num_computed

    def is_late(self, now: float) -> bool:
        limit = self.plan.config.max_time
        return limit is not None and now - self.begin > limit

    def guesses(self) -> list[int]:
        """Tokens that may come after the newest one; the model decides."""
        num_left = int(self.plan.config.max_new_tokens) - len(self.new_ids) - 1
        matcher = self.chooser.matcher
        if matcher is not None and (forced := matcher.forced()):
            return forced[: min(_MOST_FORCED, num_left)]
        if self._lookup is None:
            return []
        guesses = self._lookup.propose(min(self.plan.lookup, num_left))
        return guesses if matcher is None else guesses[: matcher.num_allowed(guesses)]

    def unencoded(self) -> Medium | None:
        """The first medium whose features are needed and not there."""
        for medium in self.prompt.media:
            if medium.features is None and medium.places[-1] >= self.num_computed:
                return medium
        return None

    def accept(self, choice: Choice) -> FinishReason | None:
        """Add a token; returns why the answer ends with it, None when it goes on."""
        now = time.perf_counter()
        token = choice.token
        self.first, self.last = self.first or now, now
        self.ids.append(token)
        self.tokens.append(token)
        self.new_ids.append(token)
        self.chooser.append(token)
        if self._lookup is not None:
            self._lookup.append(token)
        self._untold.append(choice)
        if self._ends_at(token):
            return "stop"
        if len(self.new_ids) >= self.plan.config.max_new_tokens:
            return "length"
        return "time" if self.is_late(now) else None

    def _ends_at(self, token: int) -> bool:
        if token in self.plan.config.eos_token_id:
            return True
        matcher = self.chooser.matcher
        if matcher is not None and matcher.is_complete:
            return True
        return self._stops is not None and self._stops.feed(token)

    def tell(self) -> None:
        """Give the caller the tokens that have come."""
        events = self.events if self.outbox is None else self.outbox
        for event in self._untold:
            events.put(event)
        self._untold.clear()

    def release(self, remember: bool = True) -> None:
        """Give the memory back; what is computed may be remembered for later prompts."""
        if self.lease is not None:
            keeps = remember and self.prompt.can_share
            self.lease.close(self.tokens[: self.num_computed] if keeps else None)
            self.lease = None
        for medium in self.prompt.media:
            medium.features = medium.pixels = None

    def end(self, reason: FinishReason) -> None:
        self._put_last(End(reason), remember=True)

    def fail(self, error: BaseException) -> None:
        self._put_last(error, remember=False)

    def _put_last(self, event: Event, remember: bool) -> None:
        self.release(remember)
        self._has_ended, self.elder = True, None
        self._untold.append(event)
        self.tell()
        if self.on_end is not None:
            self.on_end()


class Part(NamedTuple):
    """Tokens of one answer in a batch: those at its end, and guesses at what follows them."""

    generation: Generation
    ids: list[int]
    num_guessed: int = 0

    @property
    def span(self) -> Span:
        generation = self.generation
        assert generation.lease is not None
        start, blocks = generation.num_computed, generation.lease.blocks
        return Span(start, len(self.ids), blocks, is_prompt=not generation.new_ids)

    @property
    def num_logits(self) -> int:
        """Of its last tokens; 0 where the prompt goes on."""
        return self.generation.num_logits(len(self.ids), self.num_guessed)
