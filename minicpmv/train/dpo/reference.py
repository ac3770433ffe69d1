"""Log-probabilities of all answers by the model before training, computed once and kept on disk.

So no second model is in memory while training. `reference.npy` holds one number per trained token,
example after example; -inf is never written.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float32]]


class Reference:
    """What the reference gives each trained token.

    Args:
        values: (sum of num_trained,) float32, natural logarithms.
        num_trained: of each example, in order.
    """

    def __init__(self, values: Array, num_trained: Sequence[int] | np.ndarray[Any, Any]) -> None:
        self.values = values
        self.starts = np.concatenate([[0], np.cumsum(np.asarray(num_trained, np.int64))])
        if len(values) != self.starts[-1]:
            raise ValueError(
                f"The reference holds {len(values)} log-probabilities; the examples train "
                f"{self.starts[-1]} tokens. Remove reference.npy, or give another --output."
            )

    def __getitem__(self, example: int) -> Array:
        return self.values[self.starts[example] : self.starts[example + 1]]


def read(path: Path, key: Any, num_trained: Any) -> Reference | None:
    """What an earlier session wrote for the same examples and model; None where there is none."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    return Reference(values, num_trained) if about == key else None


def write(path: Path, key: Any, values: Array) -> None:
    """Both files appear only when whole; the one with the key comes last."""
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.save(file, values)
    os.replace(unfinished, path)
    unfinished.write_text(json.dumps(key), encoding="utf-8")
    os.replace(unfinished, path.with_suffix(".json"))


@torch.no_grad()
def compute(
    logprobs: Callable[[dict[str, Any]], Tensor],
    collate: Callable[[list[list[int]]], dict[str, Any]],
    plan: Sequence[list[int]],
    num_trained: Any,
    *,
    rank: int = 0,
    count: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Array:
    """The log-probabilities of this process's share of the rows; 0 elsewhere.

    Args:
        logprobs: a batch to (num_tokens,), in the order of its tokens.
        collate: rows of example numbers to a batch.
        plan: rows of example numbers, as many for each process.
        num_trained: of each example.
    """
    starts = np.concatenate([[0], np.cumsum(np.asarray(num_trained, np.int64))])
    values = np.zeros(starts[-1], np.float32)
    for done, row in enumerate(plan[rank::count]):
        batch = collate([row])
        found = logprobs(batch)  # (num_tokens,)
        wanted = found[batch["shift_labels"].flatten().to(found.device) != -100].float().cpu()
        place = 0
        for example in row:
            length = starts[example + 1] - starts[example]
            values[starts[example] : starts[example + 1]] = wanted[place : place + length].numpy()
            place += length
        if on_progress is not None:
            on_progress(done + 1, len(plan) // count)
    return values
