"""Sampling with a random generator per row.

transformers' `generate` draws with torch's global generator, which all threads share. A request
with a seed brings a generator for each row, so that its answer is the same alone, in a batch
and beside other threads, and the global random state is left alone.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

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
