"""Learning rates, at the borders of their phases."""

import pytest

from minicpmv.train.schedules import warmup_cosine, warmup_stable_decay


def test_warmup_stable_decay() -> None:
    plan = {"warmup_steps": 4, "stable_end": 8, "half_life": 2, "max_lr": 0.8}
    found = [warmup_stable_decay(step, **plan) for step in (0, 1, 4, 8, 10, 12)]
    assert found == pytest.approx([0, 0.2, 0.8, 0.8, 0.4, 0.2])


def test_warmup_cosine() -> None:
    plan = {"warmup_steps": 2, "num_steps": 10, "max_lr": 1.0, "min_lr": 0.2}
    found = [warmup_cosine(step, **plan) for step in (0, 1, 2, 6, 10, 20)]
    assert found == pytest.approx([0, 0.5, 1.0, 0.6, 0.2, 0.2])


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="half_life is 0"):
        warmup_stable_decay(1, warmup_steps=0, stable_end=1, half_life=0)
    with pytest.raises(ValueError, match="warmup_steps is 11"):
        warmup_cosine(1, warmup_steps=11, num_steps=10)
