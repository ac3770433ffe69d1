"""Options to answers: the one place where a loaded model generates.

Every road (Python, command line, the released `chat()`) ends here. The tokens come from
transformers' `generate`; a faster engine takes its place behind `generate_ids` and `stream_ids`.

The repetition penalty of the releases that see pictures counts new tokens only, as in the released
code, which generates from embeddings and so never shows the prompt to the penalty. That of the text
models counts the prompt, too.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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

_STOP_WINDOW = 16  # tokens; a stop text written in single bytes has 8


def generate_ids(
    model: Any,
    inputs: Mapping[str, Any],
    plan: GenerationPlan,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteria | None = None,
    logits_processors: Sequence[LogitsProcessor] = (),
) -> torch.Tensor:
    """New token ids, with pad tokens after a terminator: (batch, new)."""
    prompt_length = inputs["input_ids"].shape[1]
    processors = LogitsProcessorList([FiniteLogits(), *logits_processors])
    if plan.repetition_penalty != 1.0:
        processors.append(
            _PenaltyOnPromptToo(plan.repetition_penalty, plan.config.pad_token_id)
            if plan.penalise_prompt
            else RepetitionPenaltyLogitsProcessor(
                plan.repetition_penalty, prompt_ignore_length=prompt_length
            )
        )
    criteria = StoppingCriteriaList([stopping] if stopping else [])
    if plan.has_stop_text is not None:
        criteria.append(_StopAtText(plan.has_stop_text, prompt_length))
    if plan.seed is not None:
        torch.manual_seed(plan.seed)
    with torch.inference_mode():
        ids = model.generate(
            **inputs,
            generation_config=plan.config,
            logits_processor=processors,
            streamer=streamer,
            stopping_criteria=criteria,
        )
    return ids[:, prompt_length:]


def stream_ids(model: Any, inputs: Mapping[str, Any], plan: GenerationPlan) -> Iterator[int]:
    """New token ids of one sample, each as soon as it is known. Closing the iterator stops it.

    Raises:
        ValueError: several samples, or beams, which have no next token to show before they end.
    """
    if len(inputs["input_ids"]) != 1:
        raise ValueError(
            f"A stream answers one conversation; {len(inputs['input_ids'])} were given."
        )
    if (plan.config.num_beams or 1) > 1:
        raise ValueError("A stream cannot show beams. Pass num_beams=1, or sampling=True.")
    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    stop = _StopWhenSet()

    def work() -> None:
        try:
            generate_ids(model, inputs, plan, _QueueStreamer(tokens), stop)
        except BaseException as error:  # handed over to the reader, raised there
            tokens.put(error)
        else:
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
        return super().__call__(torch.where(is_padding, input_ids[:, -1:], input_ids), scores)


class _QueueStreamer(BaseStreamer):
    """Hands tokens over as they come; the first call brings the prompt, which is left out."""

    def __init__(self, tokens: queue.SimpleQueue):
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
