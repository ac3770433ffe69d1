"""How the tokens of an answer are chosen.

`Rules` are what a plan says of it, a `Chooser` is the state of one answer, and `choose` chooses the
next token of many answers at once: token for token what transformers' `generate` chooses through
`hf.generate_ids`, whose order of steps is kept:

    no n-gram twice, no terminator before the shortest length         -> minus infinity
    repetition penalty; frequency and presence penalties; bias        -> logits
    what the constraint does not allow                                -> minus infinity
    temperature, top_k, top_p, min_p, one draw (or the likeliest)     -> a token

transformers' `generate` draws with torch's global generator, which all threads share. A request
with a seed brings a generator for each row, so that its answer is the same alone, in a batch
and beside other threads, and the global random state is left alone. The second half of this file
makes `generate` do that.
"""

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .draws import Draw, drawn, likeliest, top
from .finite import NOT_FINITE
from .matching import Matcher
from .plan import GenerationPlan


@dataclass(frozen=True)
class Rules:
    """How the tokens of one answer are chosen.

    Fields:
        draw: None takes the likeliest token.
        seed: of the draws; None takes torch's own random numbers.
        terminator_ids: forbidden among the first `min_new_tokens`.
        forbidden_ids: forbidden anywhere.
        no_repeat_ngram_size: 0: none. It counts the prompt.
        repetition_penalty: of tokens that were there before; 1: none.
        penalise_prompt: whether that counts the prompt, too, without the padding that begins it.
        frequency_penalty, presence_penalty: taken off the logit of a new token that was there
            before, times its number and once.
        logit_bias: token ids, and what is added to their logits.
        num_top: how many of the likeliest tokens a choice names beside the chosen one; None: no
            log-probabilities at all.
    """

    draw: Draw | None = None
    seed: int | None = None
    min_new_tokens: int = 0
    terminator_ids: tuple[int, ...] = ()
    forbidden_ids: tuple[int, ...] = ()
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    penalise_prompt: bool = False
    pad_token_id: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_top: int | None = None

    @classmethod
    def of(cls, plan: GenerationPlan) -> "Rules":
        """The rules of a plan without beams."""
        assert plan.num_beams == 1
        config = plan.config
        draw = None
        if config.do_sample:
            draw = Draw(
                temperature=None if config.temperature == 1 else config.temperature,
                top_k=config.top_k or None,
                top_p=None if config.top_p == 1 else config.top_p,
                min_p=config.min_p or None,
            )
        return cls(
            draw=draw,
            seed=plan.seed,
            min_new_tokens=config.min_new_tokens or 0,
            terminator_ids=tuple(config.eos_token_id),
            forbidden_ids=tuple(config.suppress_tokens or ()),
            no_repeat_ngram_size=config.no_repeat_ngram_size or 0,
            repetition_penalty=plan.repetition_penalty,
            penalise_prompt=plan.penalise_prompt,
            pad_token_id=config.pad_token_id,
            frequency_penalty=plan.frequency_penalty,
            presence_penalty=plan.presence_penalty,
            logit_bias=plan.logit_bias,
            num_top=plan.logprobs,
        )

    @property
    def changes_logits(self) -> bool:
        """Whether a logit may be another before a token is chosen."""
        return bool(
            self.min_new_tokens
            or self.forbidden_ids
            or self.no_repeat_ngram_size
            or self.repetition_penalty != 1
            or self.frequency_penalty
            or self.presence_penalty
            or self.logit_bias
        )


class Chooser:
    """The state of one answer: its new tokens and its random numbers.

    Whoever takes the token that `choose` chose appends it, before the next one is chosen.

    Args:
        prompt_ids: as the model was given them, with placeholders and without padding.
        matcher: of the constraint, at its beginning.
    """

    def __init__(self, rules: Rules, prompt_ids: Sequence[int], matcher: Matcher | None = None):
        self.rules = rules
        self.matcher = matcher
        self.changes_logits = rules.changes_logits or matcher is not None
        self.new_ids: list[int] = []
        self._generator: torch.Generator | None = None
        self._counts = _Counts()
        self._prompt = np.empty(0, dtype=np.int64)
        if rules.repetition_penalty != 1 and rules.penalise_prompt:
            self._prompt = np.unique(_without_padding(prompt_ids, rules.pad_token_id))
        self._ngrams = _Ngrams(rules.no_repeat_ngram_size) if rules.no_repeat_ngram_size else None
        if self._ngrams is not None:
            for token in prompt_ids:
                self._ngrams.append(token)

    def append(self, token: int) -> None:
        self.new_ids.append(token)
        if self.changes_logits:
            self._counts.append(token)
        if self._ngrams is not None:
            self._ngrams.append(token)
        if self.matcher is not None and token not in self.rules.terminator_ids:
            self.matcher.append(token)

    def allowed(self) -> np.ndarray | None:
        """bool (tokens,) of the constraint, whose end comes before the shortest length where
        nothing else can follow; None without one.

        Raises:
            ValueError: see `Matcher.allowed`.
        """
        if self.matcher is None:
            return None
        allowed = self.matcher.allowed()
        if len(self.new_ids) < self.rules.min_new_tokens:
            going_on = allowed.copy()
            going_on[list(self.rules.terminator_ids)] = False
            return going_on if going_on.any() else allowed
        return allowed

    def generator(self, device: torch.device) -> torch.Generator | None:
        """Of this answer; None where it has no seed."""
        if self._generator is None and self.rules.seed is not None:
            (self._generator,) = generators(self.rules.seed, 1, device)
        return self._generator

    def forbidden(self) -> Sequence[int]:
        """Ids that cannot come next."""
        banned = [] if self._ngrams is None else self._ngrams.complete()
        banned = [*banned, *self.rules.forbidden_ids]
        if len(self.new_ids) < self.rules.min_new_tokens and self.matcher is None:
            return [*banned, *self.rules.terminator_ids]
        return banned

    def repeated(self) -> np.ndarray:
        """Ids that the repetition penalty is for, some of them twice."""
        return np.concatenate([self._prompt, self._counts.ids()])

    def added(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """What is added to logits, step by step: ids, each once, and float64 amounts."""
        rules = self.rules
        if rules.frequency_penalty or rules.presence_penalty:
            amounts = rules.frequency_penalty * self._counts.counts() + rules.presence_penalty
            yield self._counts.ids(), -amounts
        if rules.logit_bias:
            ids, biases = zip(*rules.logit_bias, strict=True)
            yield np.array(ids), np.array(biases)


class _Counts:
    """How often each token came, in the order of their first places."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._ids, self._counts = array("q"), array("q")

    def append(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._ids))
        if place == len(self._ids):
            self._ids.append(token)
            self._counts.append(0)
        self._counts[place] += 1

    def ids(self) -> np.ndarray:
        return np.array(self._ids, dtype=np.int64)

    def counts(self) -> np.ndarray:
        return np.array(self._counts, dtype=np.int64)


class _Ngrams:
    """Which tokens came after which runs of `size` - 1 tokens."""

    def __init__(self, size: int):
        self._size = size
        self._last: tuple[int, ...] = ()
        self._next: dict[tuple[int, ...], list[int]] = {}

    def append(self, token: int) -> None:
        run = (*self._last, token)
        if len(run) == self._size:
            self._next.setdefault(run[:-1], []).append(token)
            run = run[1:]
        self._last = run

    def complete(self) -> list[int]:
        """Tokens that would write a run of `size` tokens again."""
        return self._next.get(self._last, []) if len(self._last) == self._size - 1 else []


def _without_padding(ids: Sequence[int], pad_token_id: int | None) -> Sequence[int]:
    start = next((place for place, token in enumerate(ids) if token != pad_token_id), None)
    return ids[-1:] if start is None else ids[start:]


@dataclass(slots=True)
class Choice:
    """A chosen token.

    Fields:
        logprob: the natural logarithm of its probability after the softmax of the model's own
            logits, before penalties, bias and temperature; None where none was asked for.
        top: the likeliest tokens, with the same, likeliest first.
    """

    token: int
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None


def choose(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[Choice | Exception]:
    """The next token of each answer; the caller appends it to its chooser.

    Args:
        logits: float32 (rows, vocabulary), a row for each chooser; they are left as they are.

    Returns:
        For a row whose numbers are not finite, or whose constraint cannot be followed, a ValueError
        that says so; the others are as they would be without it.
    """
    if not choosers:
        return []
    scores = changed(logits, choosers)
    errors = _keep_allowed(scores, choosers)
    if len({chooser.rules.draw for chooser in choosers}) == 1:  # for all rows at once
        largest, tokens = _chosen(scores, choosers)
    else:
        largest = scores.new_empty(len(choosers))
        tokens = torch.empty(len(choosers), dtype=torch.long, device=scores.device)
        for places in _alike([chooser.rules.draw for chooser in choosers]):
            index = torch.tensor(places, device=scores.device)
            largest[index], tokens[index] = _chosen(
                scores[index], [choosers[place] for place in places]
            )
    nums = [chooser.rules.num_top for chooser in choosers]
    logprobs: list[tuple[Any, ...]] = [()] * len(choosers)
    places = [place for place, num_top in enumerate(nums) if num_top is not None]
    if places:
        index = torch.tensor(places, device=logits.device)
        of_some = logprobs_of(logits[index], tokens[index], [nums[place] or 0 for place in places])
        for place, each in zip(places, of_some, strict=True):
            logprobs[place] = each
    found = torch.stack([tokens, largest.isfinite().long()], dim=1).tolist()
    for place, (_, is_finite) in enumerate(found):
        if not is_finite:
            errors.setdefault(place, ValueError(NOT_FINITE))
    return [
        errors.get(place) or Choice(token, *logprobs[place])
        for place, (token, _) in enumerate(found)
    ]


def _keep_allowed(scores: torch.Tensor, choosers: Sequence[Chooser]) -> dict[int, Exception]:
    """Make what constraints do not allow minus infinity, in place.

    Returns:
        errors by the rows whose constraint cannot be followed.
    """
    errors: dict[int, Exception] = {}
    for row, chooser in enumerate(choosers):
        try:
            allowed = chooser.allowed()
        except ValueError as error:
            errors[row] = error
            continue
        if allowed is not None:
            keep_only(scores[row], allowed)
    return errors


def keep_only(scores: torch.Tensor, allowed: np.ndarray) -> None:
    """Make the scores (vocabulary,) of all other tokens minus infinity, in place."""
    forbidden = torch.from_numpy(~allowed[: len(scores)]).to(scores.device)
    scores[: len(forbidden)].masked_fill_(forbidden, -torch.inf)
    scores[len(forbidden) :] = -torch.inf


def _alike(keys: Sequence[Hashable]) -> Iterable[list[int]]:
    """Places of equal keys."""
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places.values()


def _chosen(scores: torch.Tensor, choosers: Sequence[Chooser]) -> tuple[torch.Tensor, torch.Tensor]:
    draw = choosers[0].rules.draw
    if draw is None:
        return likeliest(scores)
    return drawn(scores, draw, [chooser.generator(scores.device) for chooser in choosers])


def changed(logits: torch.Tensor, choosers: Sequence[Chooser]) -> torch.Tensor:
    """The logits as the rules change them; the same tensor where they change nothing."""
    rows = [row for row, chooser in enumerate(choosers) if chooser.changes_logits]
    if not rows:
        return logits
    length = logits.shape[1]
    scores = logits.clone()
    flat = scores.view(-1)

    def places(row: int, ids: np.ndarray) -> np.ndarray:
        return ids + row * length

    forbidden = [
        token + row * length
        for row in rows
        for token in choosers[row].forbidden()
        if token < length
    ]
    if forbidden:
        flat[torch.tensor(forbidden, device=flat.device)] = -torch.inf
    penalties: dict[float, list[np.ndarray]] = {}
    added: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for row in rows:
        penalty = choosers[row].rules.repetition_penalty
        if penalty != 1:
            ids = choosers[row].repeated()
            penalties.setdefault(penalty, []).append(places(row, ids[ids < length]))
        for step, (ids, amounts) in enumerate(choosers[row].added()):
            if step == len(added):
                added.append([])
            added[step].append((places(row, ids[ids < length]), amounts[ids < length]))
    for penalty, parts in penalties.items():
        index = torch.from_numpy(np.concatenate(parts)).to(flat.device)
        found = flat[index]
        flat[index] = torch.where(found < 0, found * penalty, found / penalty)
    for steps in added:
        index = torch.from_numpy(np.concatenate([ids for ids, _ in steps])).to(flat.device)
        amounts = np.concatenate([amounts for _, amounts in steps]).astype(np.float32)
        flat[index] += torch.from_numpy(amounts).to(flat.device)
    return scores


def logprobs_of(
    logits: torch.Tensor, tokens: torch.Tensor, nums: Sequence[int]
) -> list[tuple[float, list[tuple[int, float]]]]:
    """Of each row the log-probability of its token, and those of as many of the likeliest.

    Args:
        logits: (rows, vocabulary), of the model itself.
        tokens: (rows,).
    """
    if logits.is_cpu and len(logits) > 1:  # less memory to be read again
        rows = zip(logits.split(1), tokens.split(1), nums, strict=True)
        return [pair for row, token, num in rows for pair in logprobs_of(row, token, [num])]
    logprobs = logits.log_softmax(dim=-1)
    of_tokens = logprobs.gather(1, tokens.unsqueeze(1))
    most = min(max(nums), logits.shape[1])
    ids, values = of_tokens[:, :0], of_tokens[:, :0]
    if most:
        _, ids, values = top(logprobs, most)
    num_found = values.shape[1]
    found = torch.cat([of_tokens.double(), values.double(), ids.double()], dim=1).tolist()
    result = []
    for num_top, (of_token, *rest) in zip(nums, found, strict=True):
        pairs = list(zip(map(int, rest[num_found:]), rest[:num_found], strict=True))
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        result.append((of_token, pairs[:num_top]))
    return result


def generators(seed: int, num_rows: int, device: torch.device) -> list[torch.Generator]:
    """A generator for each row of a batch, all at the same place."""
    return [torch.Generator(device).manual_seed(seed) for _ in range(num_rows)]


def without_sampling(config: GenerationConfig) -> GenerationConfig:
    """The same config for `generate` with `drawing` among its logits processors."""
    greedy = copy(config)
    greedy.update(do_sample=False, temperature=1.0, top_p=1.0, top_k=50, min_p=None)
    return greedy


def drawing(config: GenerationConfig, rows: Sequence[torch.Generator]) -> list[LogitsProcessor]:
    """Logits processors after which the likeliest token is the one drawn, as `generate` draws."""
    processors: list[LogitsProcessor] = []
    if config.temperature not in (None, 1.0):
        processors.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k:
        processors.append(TopKLogitsWarper(int(config.top_k)))
    if config.top_p is not None and config.top_p < 1.0:
        processors.append(TopPLogitsWarper(float(config.top_p)))
    if config.min_p is not None:
        processors.append(MinPLogitsWarper(float(config.min_p)))
    return [*processors, _Draw(rows)]


class _Draw(LogitsProcessor):
    """Leaves each row the one token that its generator draws."""

    def __init__(self, rows: Sequence[torch.Generator]):
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = scores.softmax(dim=-1)
        drawn = _draw_rows(torch.multinomial, probabilities, 1, self._rows)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class DrawnBeams(TorchFunctionMode):
    """While it is entered, `torch.multinomial` of this thread draws row by row with these
    generators: beam search has no place between its draws and its logits processors."""

    def __init__(self, rows: Sequence[torch.Generator]):
        super().__init__()
        self._rows = rows

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.multinomial:
            return func(*args, **kwargs)
        probabilities = args[0] if args else kwargs["input"]
        num_samples = args[1] if len(args) > 1 else kwargs["num_samples"]
        return _draw_rows(func, probabilities, num_samples, self._rows)


def _draw_rows(
    draw: Callable[..., Any],
    probabilities: torch.Tensor,
    num_samples: int,
    rows: Sequence[torch.Generator],
) -> torch.Tensor:
    return torch.cat(
        [
            draw(probabilities[index : index + 1], num_samples, generator=generator)
            for index, generator in enumerate(rows)
        ]
    )
