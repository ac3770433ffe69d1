"""What people print: words, numbers, dates, prices, codes, addresses, lines and paragraphs of them.

In training some of it is letters or signs in any order, which teach characters and not words.
"""

import random
import string
from collections.abc import Callable

from minicpmv.scenes.text import words
from minicpmv.scenes.text.lettering import PRINTABLE, random_word

MAX_LINE = 24  # characters of a single line
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def word(rng: random.Random, split: str) -> str:
    """A word, or a few capitals and digits."""
    if rng.random() < 0.08:
        return "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(2, 7)))
    return random_word(rng, split)


def date(rng: random.Random) -> str:
    """A day between 1950 and 2039, in one of the usual forms."""
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1950, 2039)
    return rng.choice(
        (
            f"{day:02d}/{month:02d}/{year}",
            f"{day:02d}.{month:02d}.{year}",
            f"{year}-{month:02d}-{day:02d}",
            f"{day} {_MONTHS[month - 1]} {year}",
            f"{_MONTHS[month - 1]} {day}, {year}",
        )
    )


def time(rng: random.Random) -> str:
    """A time of the day."""
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    return rng.choice(
        (f"{hour:02d}:{minute:02d}", f"{hour % 12 + 1}:{minute:02d} {'ap'[hour > 11]}m")
    )


def amount(rng: random.Random) -> str:
    """An amount of money with two decimals, without its sign."""
    whole = rng.choice((rng.randint(0, 9), rng.randint(10, 99), rng.randint(100, 999)))
    return f"{whole}.{rng.randint(0, 99):02d}"


def number(rng: random.Random, split: str) -> str:
    """A number, price, share, time, date or the like."""
    whole = str(rng.randint(0, 10 ** rng.randint(1, 6) - 1))
    return rng.choice(
        (
            whole,
            whole,
            whole,
            amount(rng),
            f"${amount(rng)}",
            f"{int(whole):,}",
            f"{rng.randint(0, 100)}%",
            time(rng),
            date(rng),
            f"-{rng.randint(1, 99)}",
            f"No. {rng.randint(1, 999)}",
            f"+{rng.randint(1, 99)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}",
        )
    )


def code(rng: random.Random, split: str) -> str:
    """Capitals and digits in groups."""
    symbols = string.ascii_uppercase + string.digits
    parts = ["".join(rng.choices(symbols, k=rng.randint(2, 4))) for _ in range(rng.randint(1, 3))]
    return rng.choice("-/ ").join(parts)


def phrase(rng: random.Random, split: str) -> str:
    """Two to five words."""
    if rng.random() < 0.15:
        return rng.choice((person(rng, split), rng.choice(words.vocabulary("city", split))))
    picked = [random_word(rng, split).lower() for _ in range(rng.randint(2, 5))]
    lot = rng.random()
    if lot < 0.35:
        return " ".join(picked)
    if lot < 0.6:
        return " ".join(picked).capitalize() + rng.choice(("", "", ".", "!", "?"))
    if lot < 0.8:
        return " ".join(word.capitalize() for word in picked)
    if lot < 0.9:
        return " ".join(picked).upper()
    return f"{picked[0]}{rng.choice((', ', ': ', ' & ', ' - ', ' / ', '; '))}{picked[1]}"


def person(rng: random.Random, split: str) -> str:
    """First and last name."""
    first = rng.choice(words.vocabulary("first name", split))
    return f"{first} {rng.choice(words.vocabulary('last name', split))}"


def labelled(rng: random.Random, split: str) -> str:
    """A word and its value."""
    value = rng.choice((number(rng, split), amount(rng), date(rng), code(rng, split)))
    return f"{random_word(rng, split).capitalize()}{rng.choice((' ', ': ', ' = '))}{value}"


def address(rng: random.Random, split: str) -> str:
    """A part of an address, a file, a number to call."""
    first, second = (random_word(rng, split).lower() for _ in range(2))
    return rng.choice(
        (
            f"{first}@{second}.com",
            f"www.{first}.{rng.choice(('com', 'org', 'net'))}",
            f"{first}_{second}.{rng.choice(('txt', 'png', 'pdf', 'py'))}",
            f"{rng.randint(1, 199)} {first.capitalize()} {rng.choice(('Street', 'Road', 'Ave.'))}",
            f"(555) {rng.randint(100, 999)}-{rng.randint(1000, 9999)}",
            f'"{first} {second}"',
            f"({first} {rng.randint(1, 99)})",
        )
    )


def sample_line(rng: random.Random, split: str, longest: int = MAX_LINE) -> str:
    """A line of at most `longest` characters as they stand on signs, labels and letters."""
    makers: tuple[Callable[[random.Random, str], str], ...]
    makers = (phrase, phrase, phrase, phrase, labelled, labelled, number, code, address)
    while True:
        if split == "train" and rng.random() < 0.08:  # any signs at all
            length = rng.randint(3, longest)
            text = "".join(rng.choices(PRINTABLE + " " * 12, k=length))
            text = " ".join(text.split())
        else:
            text = rng.choice(makers)(rng, split)
        if 2 <= len(text) <= longest:
            return text


def paragraph(rng: random.Random, split: str, wide: int, total: int) -> list[str]:
    """Sentences broken into `total` lines of at most `wide` characters."""
    lines = [""]
    start = True
    while True:
        token = random_word(rng, split)
        token = token.capitalize() if start else token.lower()
        if rng.random() < 0.08:
            token = number(rng, split).replace(" ", "")
        token = token[:wide]
        start = rng.random() < 0.15
        if start:
            token = token[: wide - 1] + rng.choice("...?!")
        elif rng.random() < 0.08:
            token = token[: wide - 1] + ","
        if len(lines[-1]) + 1 + len(token) <= wide or not lines[-1]:
            lines[-1] = f"{lines[-1]} {token}".strip()
        elif len(lines) == total:
            return lines
        else:
            lines.append(token)
        if len(lines) == total and lines[-1] and rng.random() < 0.1:
            return lines
