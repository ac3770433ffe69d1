"""A plan to tokens with transformers' `generate`: for every model, and with beams.

A faster engine takes its place behind `generate_ids` and `stream_ids`.

The repetition penalty of the releases that support images counts new tokens only, as in the
released code, which generates from embeddings and so never shows the prompt to the penalty. That of
the text models counts the prompt, too.
"""

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import (
    BaseStreamer,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
)

from .detokenize import StopTexts
from .finite import FiniteLogits
from .plan import GenerationPlan
from .protocols import CausalModel
from .sampling import (
    Choice,
    Chooser,
    DrawnBeams,
    Rules,
    changed,
    drawing,
    generators,
    keep_only,
    logprobs_of,
    without_sampling,
)


class Clock(StoppingCriteria):
    """When each step of a generation ended; stops nothing.

    Args:
        seconds_before: spent on the request already.
    """

    def __init__(self, seconds_before: float = 0.0) -> None:
        self.begin = time.perf_counter() - seconds_before
        self.steps: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.steps.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    @property
    def prompt_seconds(self) -> float:
        """Until the first token."""
        return self.steps[0] - self.begin if self.steps else 0.0

    def decode_seconds(self, num_tokens: int | None = None) -> float:
        """From the first token to the last, or to the one of this number."""
        if not self.steps or num_tokens == 0:
            return 0.0
        last = len(self.steps) if num_tokens is None else min(num_tokens, len(self.steps))
        return self.steps[last - 1] - self.steps[0]


class LogprobRecord(LogitsProcessor):
    """The tokens of each row with their log-probabilities, read off the model's own logits.

    Fields:
        rows: of each row, as many as it has new ids.
    """

    def __init__(self, num_top: int):
        self.rows: list[list[Choice]] = []
        self._num_top = num_top
        self._logits: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> Any:
        self._take(input_ids[:, -1])
        self._logits = scores
        return scores

    def finish(self, new_ids: torch.Tensor) -> None:
        """Generation is over, with these ids (rows, new)."""
        num_tokens = new_ids.shape[1]
        if not self.rows or len(self.rows[0]) < num_tokens:
            self._take(new_ids[:, -1])
        self.rows = [row[:num_tokens] for row in self.rows]

    def _take(self, tokens: torch.Tensor) -> None:
        """The tokens that were chosen after the last logits."""
        if self._logits is None:
            self.rows = [[] for _ in tokens]
            return
        found = logprobs_of(self._logits, tokens, [self._num_top] * len(tokens))
        for row, token, logprob in zip(self.rows, tokens.tolist(), found, strict=True):
            row.append(Choice(token, *logprob))


def generate_ids(
    model: CausalModel,
    inputs: Mapping[str, Any],
    plan: GenerationPlan,
    streamer: BaseStreamer | None = None,
    stopping: Sequence[StoppingCriteria] = (),
    logits_processors: Sequence[LogitsProcessor] = (),
    record: LogprobRecord | None = None,
) -> torch.Tensor:
    """New token ids, with pad tokens after a terminator: (batch, new).

    Args:
        stopping: a `Clock` among them says when the call began, for `max_time`.
        record: of the log-probabilities; not of beams.
    """
    num_rows, prompt_length = inputs["input_ids"].shape
    config = plan.config
    if plan.constraint is not None:  # which sees to the shortest length itself
        config = copy(config)
        config.update(min_new_tokens=0)
    processors = LogitsProcessorList()
    if record is not None:
        config = copy(config)
        processors.append(record)
        processors.extend(_forbidding(config, prompt_length, inputs["input_ids"].device))
        config.update(no_repeat_ngram_size=0, min_new_tokens=0, suppress_tokens=None)
    processors.extend([FiniteLogits(), *logits_processors])
    if plan.repetition_penalty != 1.0:
        processors.append(
            _PenaltyOnPromptToo(plan.repetition_penalty, plan.config.pad_token_id)
            if plan.penalise_prompt
            else RepetitionPenaltyLogitsProcessor(
                plan.repetition_penalty, prompt_ignore_length=prompt_length
            )
        )
    rules = Rules(
        frequency_penalty=plan.frequency_penalty,
        presence_penalty=plan.presence_penalty,
        logit_bias=plan.logit_bias,
    )
    if rules.changes_logits:
        processors.append(_Added(rules, prompt_length))
    criteria = StoppingCriteriaList(stopping)
    if plan.constraint is not None:
        constrained = _Constrained(plan, num_rows, prompt_length)
        processors.append(constrained)
        criteria.append(_WhenComplete(constrained))
    if config.max_time is not None:
        begins = [each.begin for each in stopping if isinstance(each, Clock)]
        criteria.append(_Deadline(min(begins, default=time.perf_counter()) + config.max_time))
    if plan.stops is not None:
        criteria.append(_StopAtText(plan.stops, prompt_length, plan.num_beams > 1))
    own_draws: AbstractContextManager[Any] = nullcontext()
    if plan.seed is not None and config.do_sample:
        rows = generators(plan.seed, num_rows, inputs["input_ids"].device)
        if plan.num_beams > 1:
            own_draws = DrawnBeams(rows)
        else:
            processors.extend(drawing(config, rows))
            config = without_sampling(config)
    with torch.inference_mode(), own_draws:
        ids: torch.Tensor = model.generate(
            **inputs,
            generation_config=config,
            logits_processor=processors,
            streamer=streamer,
            stopping_criteria=criteria,
        )
    ids = ids[:, prompt_length:]
    if record is not None:
        record.finish(ids)
    return ids


def _forbidding(
    config: GenerationConfig, prompt_length: int, device: torch.device
) -> Iterator[LogitsProcessor]:
    """What `generate` would put before our own processors."""
    if config.no_repeat_ngram_size:
        yield NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size)
    if config.min_new_tokens:
        yield MinNewTokensLengthLogitsProcessor(
            prompt_length, config.min_new_tokens, config.eos_token_id, device=str(device)
        )
    if config.suppress_tokens:
        yield SuppressTokensLogitsProcessor(config.suppress_tokens, device=str(device))


def stream_ids(
    model: CausalModel,
    inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    plan: GenerationPlan,
    stopping: Sequence[StoppingCriteria] = (),
    turn: AbstractContextManager[Any] | None = None,
    record: LogprobRecord | None = None,
) -> Generator[int, None, None]:
    """New token ids of one sample, each as soon as it is known. Closing the iterator stops it.

    Beams have no next token before they end: theirs come all at once.

    Args:
        inputs: of one sample, or what makes them; it is called in the thread that generates.
        turn: entered by that thread while it works.
        record: as in `generate_ids`; complete after the last id.
    """
    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    stop = StopWhenSet()

    def work() -> None:
        streamer = _QueueStreamer(tokens) if plan.num_beams == 1 else None
        try:
            with turn or nullcontext():
                made = inputs() if callable(inputs) else inputs
                ids = generate_ids(model, made, plan, streamer, [stop, *stopping], record=record)
        except BaseException as error:  # handed over to the reader, raised there
            tokens.put(error)
            return
        for token in ids[0].tolist() if streamer is None else ():
            tokens.put(token)
        tokens.put(None)

    worker = threading.Thread(target=work, name="minicpmv-generate", daemon=True)
    _WORKERS[worker] = stop
    worker.start()
    try:
        while (item := tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.event.set()
        worker.join()


_WORKERS: "weakref.WeakKeyDictionary[threading.Thread, StopWhenSet]" = weakref.WeakKeyDictionary()


def _stop_all() -> None:
    """No thread may be inside PyTorch when the interpreter ends."""
    for worker, stop in list(_WORKERS.items()):
        stop.event.set()
        worker.join()


atexit.register(_stop_all)


class _PenaltyOnPromptToo(RepetitionPenaltyLogitsProcessor):
    """Counts the prompt and not what pads it on the left."""

    def __init__(self, penalty: float, pad_token_id: int):
        super().__init__(penalty)
        self.pad_token_id = pad_token_id

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        is_padding = (input_ids != self.pad_token_id).cumsum(dim=1) == 0
        penalised: torch.Tensor = super().__call__(
            torch.where(is_padding, input_ids[:, -1:], input_ids), scores
        )
        return penalised


class _Added(LogitsProcessor):
    """The penalties and the bias of `sampling.choose`; every call reads all new tokens again."""

    def __init__(self, rules: Rules, prompt_length: int):
        self._rules = rules
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        choosers = []
        for row in input_ids[:, self._prompt_length :].tolist():
            choosers.append(Chooser(self._rules, ()))
            for token in row:
                choosers[-1].append(token)
        return changed(scores, choosers)


class _Constrained(LogitsProcessor):
    """Leaves each row the tokens that the constraint of the plan allows."""

    def __init__(self, plan: GenerationPlan, num_rows: int, prompt_length: int):
        self._rules = Rules(
            min_new_tokens=plan.config.min_new_tokens or 0,
            terminator_ids=tuple(plan.config.eos_token_id),
        )
        self._rows: list[Chooser | None]  # None: it has ended
        self._rows = [Chooser(self._rules, (), plan.matcher()) for _ in range(num_rows)]
        self._num_seen = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        kept: torch.Tensor = scores.clone()
        for row, chooser in zip(kept, self._rows, strict=True):
            allowed = None if chooser is None else chooser.allowed()
            if allowed is not None:
                keep_only(row, allowed)
        return kept

    def are_complete(self, input_ids: torch.Tensor) -> list[bool]:
        """Read the tokens that were chosen; which rows nothing can follow."""
        new = input_ids[:, self._num_seen :].tolist()
        self._num_seen = input_ids.shape[1]
        for place, tokens in enumerate(new):
            for token in tokens:
                self._rows[place] = self._after(self._rows[place], token)
        return [chooser is None for chooser in self._rows]

    def _after(self, chooser: Chooser | None, token: int) -> Chooser | None:
        matcher = None if chooser is None else chooser.matcher
        if chooser is None or matcher is None or token in self._rules.terminator_ids:
            return None
        if not matcher.num_allowed([token]):  # what pads a row that has ended otherwise
            return None
        chooser.append(token)
        return None if matcher.is_complete else chooser


class _WhenComplete(StoppingCriteria):
    """Ends a row whose constraint nothing can follow."""

    def __init__(self, constrained: _Constrained):
        self._constrained = constrained

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor(self._constrained.are_complete(input_ids), device=input_ids.device)


class _QueueStreamer(BaseStreamer):
    """Hands tokens over as they come; the first call brings the prompt, which is left out."""

    def __init__(self, tokens: "queue.SimpleQueue[int | BaseException | None]"):
        self.tokens = tokens
        self.seen_prompt = False

    def put(self, value: torch.Tensor) -> None:
        if self.seen_prompt:
            for token in value.flatten().tolist():
                self.tokens.put(token)
        self.seen_prompt = True

    def end(self) -> None:
        """Nothing to do: the worker says when it has ended."""


class StopWhenSet(StoppingCriteria):
    """Ends the generation after the token in progress, once `event` is set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full(
            (input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool
        )


class _Deadline(StoppingCriteria):
    """Ends the generation after the token in progress, once it is this time."""

    def __init__(self, time_s: float):
        self._time_s = time_s

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        is_late = time.perf_counter() > self._time_s
        return torch.full((len(input_ids),), is_late, device=input_ids.device, dtype=torch.bool)


class _StopAtText(StoppingCriteria):
    """Ends a row whose new tokens write a text that ends answers."""

    def __init__(self, stops: Callable[[], StopTexts], prompt_length: int, has_beams: bool):
        self._new_stops = stops
        self._rows: list[StopTexts] = []
        self._has_beams = has_beams
        self._num_seen = self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if self._has_beams:  # rows change their places
            stops = self._new_stops()
            ends = [stops.are_in(row) for row in input_ids[:, self._prompt_length :].tolist()]
            return torch.tensor(ends, device=input_ids.device)
        self._rows = self._rows or [self._new_stops() for _ in input_ids]
        for stops, row in zip(self._rows, input_ids[:, self._num_seen :].tolist(), strict=True):
            for token in row:
                stops.feed(token)
        self._num_seen = input_ids.shape[1]
        return torch.tensor([stops.is_found for stops in self._rows], device=input_ids.device)
