"""Random mixes of requests through `Chat`: everybody gets what `generate` gives alone."""

import random

import pytest

from minicpmv import Chat
from minicpmv.engine.limits import EngineLimits

from ..helpers.alone import Report
from ..helpers.chats import FOLDERS, loaded
from ..helpers.mixes import check_mix

FEW = 14  # mixes, in a run of all tests
MANY = 1000
NAMES = list(FOLDERS)


def checked(seed: int) -> Report:
    """The seed says which of the tiny models is asked, too, and whether its engine is a small one
    of its own or that of the mixes before."""
    rng = random.Random(seed)
    chat = loaded(rng.choice(NAMES))
    if rng.random() < 0.5:
        return check_mix(chat, seed)
    limits = EngineLimits(
        max_running=rng.choice([1, 2, 3, 64]),
        piece_tokens=rng.choice([1, 7, 32, 100]),
        idle_bytes=rng.choice([0, 100_000, None]),
        feature_bytes=rng.choice([0, 20_000, 1 << 20]),
    )
    chat = Chat(chat.model, chat.processor, limits=limits)
    try:
        return check_mix(chat, seed)
    finally:
        chat.engine.close()


def test_a_few_mixes_are_answered_as_alone() -> None:
    report = sum((checked(seed) for seed in range(FEW)), Report())
    assert report.answers > FEW
    assert report.beginnings > 0
    assert report.ties <= 1


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_a_thousand_mixes_are_answered_as_alone(part: int) -> None:
    size = MANY // 20
    report = sum((checked(1000 + part * size + number) for number in range(size)), Report())
    print(report)
    assert report.answers > 3 * size
    assert report.ties <= size / 10
