"""Random mixes of requests through `Chat`: everybody gets what `generate` gives alone."""

import random

import pytest

from ..helpers.chats import FOLDERS, loaded
from ..helpers.mixes import Report, check_mix

FEW = 8  # mixes, in a run of all tests
MANY = 1000
NAMES = list(FOLDERS)


def checked(seed: int) -> Report:
    """The seed says which of the tiny models is asked, too."""
    chat = loaded(random.Random(seed).choice(NAMES))
    return check_mix(chat, seed)


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
