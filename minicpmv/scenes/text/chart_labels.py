"""What a chart is about: its labels and its title."""

import random
from collections.abc import Callable

from minicpmv.scenes.text import records

_COUNTED_LIST = """
Sales Visitors Rain Orders Cost Profit Users Points Votes Calls Trips Births Goals Steps Errors
Output Hits Income Speed Snow Staff Guests
"""


_UNIT_LIST = "kg mm EUR USD % hours Count Units km Number Total tons litres days Value Amount"


COUNTED, UNITS = _COUNTED_LIST.split(), _UNIT_LIST.split()


def sample_labels(rng: random.Random, split: str, number: int) -> tuple[str, ...]:
    """What stands under the bars."""
    lot = rng.random()
    if lot < 0.2:
        start = rng.randrange(12)
        months = [records.MONTHS[(start + i) % 12] for i in range(number)]
        return tuple(months)
    if lot < 0.3:
        start = rng.randrange(7) if number < 7 else 0
        return tuple(records.DAYS[(start + i) % 7] for i in range(number))
    if lot < 0.45:
        year = rng.randint(1960, 2030 - number)
        return tuple(str(year + i) for i in range(number))
    if lot < 0.5 and number <= 4:
        return records.QUARTERS[:number]
    if lot < 0.56:
        start = rng.randrange(26 - number)
        return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[start : start + number])
    maker = rng.choice((records.article, records.person, records.place, records.word))
    style: Callable[[str], str] = rng.choice((str, str.capitalize, str.capitalize))
    return tuple(style(name) for name in records.different(rng, split, maker, number))


def sample_title(rng: random.Random, split: str) -> str:
    counted = rng.choice(COUNTED)
    lot = rng.random()
    if lot < 0.25:
        return f"{counted} in {records.place(rng, split)}"
    if lot < 0.45:
        return f"{counted} {rng.randint(1960, 2030)}"
    if lot < 0.65:
        return f"{records.article(rng, split).capitalize()} {counted.lower()}"
    if lot < 0.75:
        return f"{counted} per {rng.choice(('month', 'day', 'year', 'week', 'person'))}"
    if lot < 0.85:
        return f"{counted} of {records.person(rng, split)}"
    return " ".join(records.word(rng, split) for _ in range(rng.randint(1, 3))).capitalize()
