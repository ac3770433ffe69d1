"""Learning rates by the number of the step.

`warmup_stable_decay` is that of MiniCPM (arXiv 2404.06395, equation 1): linear warm-up, a long
stable phase, then a decay by halves. Imports no torch.
"""

import math


def warmup_stable_decay(
    step: int, *, warmup_steps: int, stable_end: int, half_life: float, max_lr: float = 1.0
) -> float:
    """The learning rate of a step, from 0.

    Args:
        warmup_steps: steps until `max_lr`.
        stable_end: the last step with `max_lr`.
        half_life: steps in which the rate halves after it.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(warmup_steps, stable_end)
    if half_life <= 0:
        raise ValueError(f"half_life is {half_life}; it must be above 0.")
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step <= stable_end:
        return max_lr
    return max_lr * math.exp2(-(step - stable_end) / half_life)


def warmup_cosine(
    step: int, *, warmup_steps: int, num_steps: int, max_lr: float = 1.0, min_lr: float = 0.0
) -> float:
    """The learning rate of a step, from 0: linear warm-up, then half a cosine to `min_lr`.

    Raises:
        ValueError: there are more steps of warm-up than steps.
    """
    _check(warmup_steps, num_steps)
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return min_lr + (max_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * done))


def _check(warmup_steps: int, end: int) -> None:
    if not 0 <= warmup_steps <= end:
        raise ValueError(
            f"warmup_steps is {warmup_steps}; expected 0 to {end}, where the next phase ends."
        )
