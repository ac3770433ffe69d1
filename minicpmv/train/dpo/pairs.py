"""Pairs of examples to rows and batches: both answers of a pair stand side by side in one row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...data.collate import Collator
from ...data.encode import NO_TARGET, Example
from ...data.packing import plan_rows
from .reference import Reference
from .weights import corrected_weights

Array = np.ndarray[Any, np.dtype[np.float32]]


def plan_pairs(lengths: Any, capacity: int, *, seed: int, group: int = 1) -> list[list[int]]:
    """Rows of example numbers, 2i and 2i + 1 always together.

    Args:
        lengths: tokens of each example.
        capacity: tokens of a row; a longer pair has a row of its own.
        group: rows of one step of the optimizer over all processes.
    """
    lengths = np.asarray(lengths, np.int64)
    pairs = plan_rows(lengths[0::2] + lengths[1::2], capacity, seed=seed, group=group)
    return [[example for pair in row for example in (2 * pair, 2 * pair + 1)] for row in pairs]


def pair_weights(chosen: Example, rejected: Example, gamma: float) -> tuple[Array, Array]:
    """DDPO's weights of all tokens of two examples: (num_tokens,) float32 each."""
    trained = [example.targets != NO_TARGET for example in (chosen, rejected)]
    answers = [
        example.targets[is_trained].tolist()
        for example, is_trained in zip((chosen, rejected), trained, strict=True)
    ]
    found = []
    both = corrected_weights(answers[0], answers[1], gamma)
    for is_trained, weights in zip(trained, both, strict=True):
        everywhere = np.ones(len(is_trained), np.float32)
        everywhere[is_trained] = weights
        found.append(everywhere)
    return found[0], found[1]


class PairCollator:
    """Batches with what the loss needs beside them.

    Args:
        collate: makes the batch for `forward`.
        reference: log-probabilities before training; None: none yet.
        gamma: weight of corrected spans; None: plain DPO.
    """

    def __init__(
        self, collate: Collator, reference: Reference | None = None, gamma: float | None = None
    ) -> None:
        self.collate = collate
        self.reference = reference
        self.gamma = gamma

    @property
    def idle_slice(self) -> bool:
        return self.collate.idle_slice

    def __call__(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """As `Collator`, and:

        num_pairs: int; borders (2 * num_pairs + 1,) int64 of the answers among the trained tokens;
        reference_logps and pair_weights (num_trained,), of the trained tokens in their order.
        """
        numbers = [number for row in rows for number in row]
        batch = self.collate(rows)
        batch.pop("loss_weights", None)
        examples = [self.collate.prepared[number] for number in numbers]
        counts = [example.num_trained for example in examples]
        batch["num_pairs"] = len(numbers) // 2
        batch["borders"] = torch.tensor([0, *counts]).cumsum(0)
        if self.reference is not None:
            values = [self.reference[number] for number in numbers]
            batch["reference_logps"] = torch.from_numpy(np.concatenate([*values, _NONE]))
        if self.gamma is not None:
            weights = []
            for chosen, rejected in zip(examples[0::2], examples[1::2], strict=True):
                both = pair_weights(chosen, rejected, self.gamma)
                for example, found in zip((chosen, rejected), both, strict=True):
                    weights.append(found[example.targets != NO_TARGET])
            batch["pair_weights"] = torch.from_numpy(np.concatenate([*weights, _NONE]))
        return batch


_NONE = np.zeros(0, np.float32)
