"""A plan to tokens with transformers' `generate`: for every model, and with beams.

A faster engine takes its place behind `generate_ids` and `stream_ids`.

The repetition penalty of the releases that support images counts new tokens only, as in the
released code, which generates from embeddings and so never shows the prompt to the penalty. That of
the text models counts the prompt, too.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers.generation import (
    BaseStreamer,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .finite import FiniteLogits
from .plan import GenerationPlan
from .protocols import CausalModel
from .sampling import DrawnBeams, drawing, generators, without_sampling

_STOP_WINDOW = 16  # tokens; a stop text written in single bytes has 8


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


def generate_ids(
    model: CausalModel,
    inputs: Mapping[str, Any],
    plan: GenerationPlan,
    streamer: BaseStreamer | None = None,
    stopping: Sequence[StoppingCriteria] = (),
    logits_processors: Sequence[LogitsProcessor] = (),
) -> torch.Tensor:
    """New token ids, with pad tokens after a terminator: (batch, new)."""
    num_rows, prompt_length = inputs["input_ids"].shape
    processors = LogitsProcessorList([FiniteLogits(), *logits_processors])
    if plan.repetition_penalty != 1.0:
        processors.append(
            _PenaltyOnPromptToo(plan.repetition_penalty, plan.config.pad_token_id)
            if plan.penalise_prompt
            else RepetitionPenaltyLogitsProcessor(
                plan.repetition_penalty, prompt_ignore_length=prompt_length
            )
        )
    criteria = StoppingCriteriaList(stopping)
    if plan.has_stop_text is not None:
        criteria.append(_StopAtText(plan.has_stop_text, prompt_length))
    config = plan.config
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
    return ids[:, prompt_length:]


def stream_ids(
    model: CausalModel,
    inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    plan: GenerationPlan,
    stopping: Sequence[StoppingCriteria] = (),
    turn: AbstractContextManager[Any] | None = None,
) -> Generator[int, None, None]:
    """New token ids of one sample, each as soon as it is known. Closing the iterator stops it.

    Beams have no next token before they end: theirs come all at once.

    Args:
        inputs: of one sample, or what makes them; it is called in the thread that generates.
        turn: entered by that thread while it works.
    """
    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    stop = _StopWhenSet()

    def work() -> None:
        streamer = _QueueStreamer(tokens) if plan.num_beams == 1 else None
        try:
            with turn or nullcontext():
                made = inputs() if callable(inputs) else inputs
                ids = generate_ids(model, made, plan, streamer, [stop, *stopping])
        except BaseException as error:  # handed over to the reader, raised there
            tokens.put(error)
            return
        for token in ids[0].tolist() if streamer is None else ():
            tokens.put(token)
        tokens.put(None)

    worker = threading.Thread(target=work, name="minicpmv-generate", daemon=True)
    worker.start()
    try:
        while (item := tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.event.set()
        worker.join()


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


class _StopWhenSet(StoppingCriteria):
    """Ends the generation after the token in progress, once `event` is set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full(
            (input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool
        )


class _StopAtText(StoppingCriteria):
    """Ends a row whose newest tokens write a text that ends answers."""

    def __init__(self, has_stop_text: Callable[[Sequence[int]], bool], prompt_length: int):
        self.has_stop_text = has_stop_text
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        start = max(self.prompt_length, input_ids.shape[1] - _STOP_WINDOW)
        ends = [self.has_stop_text(row) for row in input_ids[:, start:].tolist()]
        return torch.tensor(ends, device=input_ids.device)
