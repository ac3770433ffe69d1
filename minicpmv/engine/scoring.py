"""How likely given continuations of a prompt are, token by token: `Engine.score`.

The numbers are those of teacher forcing. The prompt and its pictures are computed once, and of
continuations that begin alike every token once, too.
"""

import copy
import os
import queue
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from ..errors import ArgumentError, PromptTooLongError
from .plan import GenerationPlan
from .prompt import Prompt
from .scored import Scored, logprobs_of_each

Tokens = tuple[int, ...]


class Scores:
    """The log-probabilities of continuations, while they are computed.

    Attributes:
        num_input_tokens: of the prompt; num_cached_tokens: of these, whose keys and values were
            there before, known after `read`.
    """

    def __init__(self, read: "Callable[[Scores], _Tree]", num_input_tokens: int, tree: "_Tree"):
        self.num_input_tokens = num_input_tokens
        self.num_cached_tokens = 0
        self._read = read
        self._tree = tree
        self._cancel: Callable[[], None] = lambda: None

    def read(self) -> list[list[float]]:
        """Wait for them: a number for every token of every continuation.

        Raises:
            ValueError: the model's numbers are not finite, or the engine was closed.
        """
        return self._read(self).logprobs()

    def cancel(self) -> None:
        """Nobody reads them any more; to be called instead of `read`, or from another thread."""
        self._cancel()


def check_continuations(continuations: Sequence[Sequence[int]], vocab_size: int) -> list[Tokens]:
    """The continuations as tuples.

    Raises:
        ArgumentError: there are none, or one is empty, or names a token that there is not.
    """
    checked = [tuple(int(token) for token in each) for each in continuations]
    if not checked:
        raise ArgumentError("`continuations` is empty; give one at least.")
    for number, tokens in enumerate(checked):
        if not tokens:
            raise ArgumentError(f"Continuation {number} has no tokens; give one at least.")
        wrong = [token for token in tokens if not 0 <= token < vocab_size]
        if wrong:
            raise ArgumentError(
                f"Continuation {number} has token {wrong[0]}; the vocabulary has {vocab_size}, "
                "from 0."
            )
    return checked


def check_room(num_prompt: int, num_longest: int, context: int) -> None:
    """Check that the prompt and its longest continuation fit into the model's context.

    Raises:
        PromptTooLongError: they do not.
    """
    if num_longest > context:
        raise PromptTooLongError(
            f"The prompt is too long: it has {num_prompt} tokens and the longest continuation "
            f"{num_longest - num_prompt}; the model's context is {context}. Shorten one of them."
        )


class _Tree:
    """Continuations by the paths that they go along, and what is known of them."""

    def __init__(self, continuations: Sequence[Tokens]):
        self._continuations = continuations
        heads = sorted({tokens[:-1] for tokens in continuations if len(tokens) > 1})
        # Sorted, what a path begins with stands right before it.
        self.paths = [
            head for head, following in pairwise([*heads, ()]) if following[: len(head)] != head
        ]
        self.first = sorted({tokens[0] for tokens in continuations})
        self._known: dict[Tokens, float] = {}

    def wanted(self, path: Tokens) -> list[list[int]]:
        """Ids that are wanted after each token of a path."""
        return [
            sorted({c[end] for c in self._continuations if c[:end] == path[:end] and len(c) > end})
            for end in range(1, len(path) + 1)
        ]

    def enter(self, path: Tokens, wanted: Sequence[Sequence[int]], found: Any) -> None:
        """What is found after each token of a path; of the prompt's last one for an empty path."""
        starts = range(1, len(path) + 1) if path else (0,)
        for end, ids, logprobs in zip(starts, wanted, found, strict=True):
            for token, logprob in zip(ids, logprobs, strict=True):
                self._known[(*path[:end], token)] = logprob

    def logprobs(self) -> list[list[float]]:
        return [
            [self._known[tokens[: end + 1]] for end in range(len(tokens))]
            for tokens in self._continuations
        ]


def by_scheduler(
    prompt: Prompt,
    plan: GenerationPlan,
    continuations: Sequence[Tokens],
    begin: float,
    submit: Callable[[Scored], None],
) -> Scores:
    """Scores that the scheduler computes beside all answers.

    Raises:
        QueueFullError: too many requests wait.
    """
    tree = _Tree(continuations)
    number = len(prompt.ids)
    results: queue.SimpleQueue[Scored | BaseException] = queue.SimpleQueue()
    leader = Scored(prompt, plan, begin, wanted=[tree.first], results=results)
    leader.followers = [leader.followed_by(path, tree.wanted(path), plan) for path in tree.paths]

    def read(scores: Scores) -> _Tree:
        for _ in range(1 + len(leader.followers)):
            found = results.get()
            if isinstance(found, BaseException):
                leader.cancel()
                raise found
            tree.enter(tuple(found.ids[number:]), found.wanted, found.logprobs)
        scores.num_cached_tokens = leader.num_known
        return tree

    scores = Scores(read, number, tree)
    scores._cancel = leader.cancel
    submit(leader)
    return scores


def by_forward(
    model: Any,
    source: Callable[[], Mapping[str, Any]],
    continuations: Sequence[Tokens],
    num_input_tokens: int,
    turn: Any,
) -> Scores:
    """Scores by the model's own `forward`, while they are read: for models that the engine does
    not compute itself.

    Args:
        source: makes the inputs of the prompt.
        turn: entered while the model works.
    """
    tree = _Tree(continuations)

    def read(scores: Scores) -> _Tree:
        with turn, torch.inference_mode():
            inputs = dict(source())
            mask = inputs["attention_mask"]
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            output = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
            tree.enter((), [tree.first], logprobs_of_each(output.logits[0].float(), [tree.first]))
            for path in tree.paths:
                ids = torch.tensor([path], device=mask.device)
                longer = torch.cat([mask, torch.ones_like(ids, dtype=mask.dtype)], dim=1)
                logits = model(
                    input_ids=ids,
                    attention_mask=longer,
                    position_ids=(longer.cumsum(dim=1) - 1)[:, -len(path) :],
                    past_key_values=copy.deepcopy(output.past_key_values),
                    use_cache=True,
                ).logits[0]
                wanted = tree.wanted(path)
                tree.enter(path, wanted, logprobs_of_each(logits.float(), wanted))
        return tree

    return Scores(read, num_input_tokens, tree)


def give_keys(prompt: Prompt) -> None:
    """Let the continuations of a prompt share its media, where nobody else can."""
    for medium in prompt.media:
        if medium.key is None:
            medium.key = key = os.urandom(16)
            for place in medium.places:
                prompt.tokens[place] = key
