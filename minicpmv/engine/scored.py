"""Tokens whose log-probabilities are wanted, as the scheduler sees them: nothing is generated.

A prompt is computed by itself, which scores the first token of every continuation. Its paths follow
once its keys and values are there, each with a copy of the block in which it leaves the prompt, all
in one batch where they fit:

    prompt               -> the first token of every continuation
      + a path           -> the other tokens of the continuations that go along it
      + another path     -> ...
"""

import queue
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from .answer import FinishReason
from .finite import NOT_FINITE
from .plan import GenerationPlan
from .prompt import Prompt
from .sequence import Generation


class _OwnEnd(Prompt):
    """A prompt whose end nobody else can use."""

    @property
    def can_share(self) -> bool:
        return False


@dataclass(eq=False)
class Scored(Generation):
    """A prompt, or a prompt with a path behind it.

    Fields:
        wanted: ids of tokens that may come after each of its last `len(wanted)` tokens.
        results: takes this object when it is complete, or what went wrong.
        logprobs: of `wanted`, as far as they are computed.
        followers: the paths, which the scheduler begins when the prompt is computed.
        num_known: tokens of the prompt whose keys and values were there before.
    """

    wanted: Sequence[Sequence[int]] = ()
    results: "queue.SimpleQueue[Scored | BaseException]" = field(default_factory=queue.SimpleQueue)
    logprobs: list[list[float]] = field(default_factory=list)
    followers: "Sequence[Scored]" = ()
    num_known: int = 0

    def __post_init__(self) -> None:
        self.ids = list(self.prompt.ids)
        self.tokens = list(self.prompt.tokens)
        self._stops = None
        self._lookup = None

    def followed_by(
        self, path: Sequence[int], wanted: Sequence[Sequence[int]], plan: GenerationPlan
    ) -> "Scored":
        """The prompt with a path, for the same reader."""
        # No two paths may take tokens over from each other, which would then have no logits.
        own: list[Hashable] = [(object(), token) for token in path]
        prompt = _OwnEnd(
            [*self.prompt.ids, *path],
            [*self.prompt.tokens, *own],
            [medium.copy() for medium in self.prompt.media],
        )
        follower = Scored(
            prompt, plan, self.begin, wanted=wanted, results=self.results, is_request=False
        )
        follower._cancelled = self._cancelled
        return follower

    @property
    def num_total(self) -> int:
        return len(self.ids)

    def num_logits(self, num_ids: int, num_guessed: int = 0) -> int:
        end = self.num_computed + num_ids
        first_wanted = len(self.ids) - len(self.wanted)
        return max(end - max(self.num_computed, first_wanted), 0)

    def take(self, logits: torch.Tensor) -> bool:
        """Read the logits of the newest tokens, (tokens, vocabulary); True when all are there.

        Raises:
            ValueError: they are not finite.
        """
        assert self.lease is not None
        self.num_known = self.lease.num_known
        start = len(self.logprobs)
        self.logprobs += logprobs_of_each(logits, self.wanted[start : start + len(logits)])
        return len(self.logprobs) == len(self.wanted)

    def end(self, reason: FinishReason) -> None:
        self.release(remember=True)
        is_complete = len(self.logprobs) == len(self.wanted)
        self.results.put(self if is_complete else ValueError("The scores were cancelled."))

    def fail(self, error: BaseException) -> None:
        self.release(remember=False)
        self.results.put(error)


def logprobs_of_each(logits: torch.Tensor, wanted: Sequence[Sequence[int]]) -> list[list[float]]:
    """Natural log-probabilities of the wanted tokens after the softmax of their row.

    Args:
        logits: float32 (rows, vocabulary).

    Raises:
        ValueError: the logits are not finite.
    """
    counts = [len(tokens) for tokens in wanted]
    rows = torch.arange(len(wanted)).repeat_interleave(torch.tensor(counts)).to(logits.device)
    ids = torch.tensor([token for tokens in wanted for token in tokens], device=logits.device)
    # NaN is larger than any number, so the largest tells of it.
    if not bool(logits.amax(dim=-1).isfinite().all()):
        raise ValueError(NOT_FINITE)
    found = logits[rows, ids].double() - logits.double().logsumexp(dim=-1)[rows]
    return [part.tolist() for part in found.split(counts)]
