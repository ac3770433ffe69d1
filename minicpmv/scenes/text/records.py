"""What printed tables and charts are about: people with ages and cities, goods with prices, trains
with times, and rows of chance that no one can guess.

Names, places and goods belong to one split each, as the words do; the headings over them ("Name",
"Price") and the names of days and months are the same in both.
"""

import functools
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from minicpmv.scenes.figures.colours import COLOURS
from minicpmv.scenes.scene import Table
from minicpmv.scenes.text import words

Maker = Callable[[random.Random, str], str]  # (rng, split) -> the text of one cell

_GOODS = """
apple bag ball banana beans bench book bowl bread broom butter cake candle carrot chair cheese clock
coat coffee comb cup desk drum eggs flour fork glove grapes ham hammer hat honey ink jam jar juice
kite knife lamp lemon map milk mirror mug nails needle nuts oil olives onion orange paint paper
pasta pear pen pencil pepper pie pillow pizza plate plum potato radio rice rope ruler salad salt
scarf shirt shoes soap socks soup spoon sugar table tape tea tent tie tomato towel toy vase watch
water wine wool
"""
_JOBS = (
    "baker clerk cook dentist doctor driver farmer judge nurse painter pilot singer tailor tutor"
)
_SUBJECTS = "Art Biology English French History Latin Maths Music Physics Sport"
DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
QUARTERS = ("Q1", "Q2", "Q3", "Q4")
COUNTABLE_KEYS = frozenset(["Item", "Product", "Article", "Goods"])  # asked for as "the apple"
MAX_CELL = 12  # characters


@functools.cache
def _of(split: str, listed: str) -> tuple[str, ...]:
    """The names of a list that belong to a split, by the same checksum as the words."""
    held_out = split == "test"
    return tuple(
        name
        for name in listed.split()
        if (zlib.crc32(name.lower().encode()) % words.HELD_OUT_SHARE == 0) == held_out
    )


def person(rng: random.Random, split: str) -> str:
    """A first name."""
    return rng.choice(words.vocabulary("first name", split))


def place(rng: random.Random, split: str) -> str:
    """A city."""
    return rng.choice(words.vocabulary("city", split))


def article(rng: random.Random, split: str) -> str:
    """Something a shop sells, in lower case."""
    if rng.random() < 0.3:
        return rng.choice(words.vocabulary("item", split)).lower()
    return rng.choice(_of(split, _GOODS))


def _job(rng: random.Random, split: str) -> str:
    return rng.choice(_of(split, _JOBS))


def word(rng: random.Random, split: str) -> str:
    """A word, or in training also letters and syllables in any order."""
    lot = rng.random() if split == "train" else 1.0
    if lot < 0.2:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7)))
    if lot < 0.4:
        return words.syllables(rng)[:MAX_CELL]
    return rng.choice(words.words(split))


def code(rng: random.Random, split: str) -> str:
    """Letters and digits as on labels: B12, K7-92."""
    letters = "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=rng.randint(1, 2)))
    digits = "".join(rng.choices("0123456789", k=rng.randint(1, 3)))
    return letters + rng.choice(("", "", "-")) + digits


def _price(rng: random.Random, split: str) -> str:
    return f"{rng.choice((rng.randint(0, 9), rng.randint(1, 99)))}.{rng.choice('0123456789')}" + (
        rng.choice("0059")
    )


def _time(rng: random.Random, split: str) -> str:
    return f"{rng.randint(5, 23):02d}:{rng.randint(0, 59):02d}"


def _date(rng: random.Random, split: str) -> str:
    day, month = rng.randint(1, 28), rng.randint(1, 12)
    return rng.choice((f"{day:02d}/{month:02d}", f"{day} {MONTHS[month - 1]}"))


def _whole(least: int, most: int, unit: str = "") -> Maker:
    return lambda rng, split: f"{rng.randint(least, most)}{unit}"


def _one_of(*choices: str) -> Maker:
    return lambda rng, split: rng.choice(choices)


def _number(rng: random.Random, split: str) -> str:
    lot = rng.random()
    if lot < 0.75:
        return str(rng.randint(0, 10 ** rng.randint(1, 4) - 1))
    return f"{rng.uniform(0, 100):.{rng.randint(1, 2)}f}"


# What stands in a column, by its heading.
COLUMNS: dict[str, Maker] = {
    "Age": _whole(5, 95),
    "Arrives": _time,
    "City": place,
    "Code": code,
    "Colour": _one_of(*COLOURS),
    "Cost": _whole(10, 999),
    "Date": _date,
    "Day": _one_of(*DAYS),
    "Departs": _time,
    "Drawn": _whole(0, 20),
    "Gate": code,
    "Goals": _whole(0, 99),
    "Height": _whole(120, 199, " cm"),
    "High": _whole(5, 38),
    "Job": _job,
    "Level": _whole(1, 9),
    "Lost": _whole(0, 30),
    "Low": _whole(-12, 20),
    "Month": _one_of(*MONTHS),
    "Orders": _whole(1, 500),
    "Phone": _whole(1000, 9999),
    "Platform": _whole(1, 24),
    "Points": _whole(0, 120),
    "Price": _price,
    "Profit": _whole(-99, 999),
    "Qty": _whole(1, 60),
    "Rain": _whole(0, 40, " mm"),
    "Rank": _whole(1, 50),
    "Room": code,
    "Sales": _whole(10, 2000),
    "Score": _whole(0, 100),
    "Share": _whole(1, 99, "%"),
    "Size": _one_of("S", "M", "L", "XL", "small", "large"),
    "Status": _one_of("open", "closed", "late", "on time", "ready", "yes", "no"),
    "Stock": _whole(0, 400),
    "Time": _time,
    "Total": _price,
    "Weight": _whole(1, 950, " g"),
    "Wind": _whole(0, 60),
    "Won": _whole(0, 30),
    "Year": _whole(1900, 2030),
}


@dataclass(frozen=True)
class _Theme:
    """A kind of table: what its first column may be called and holds, and which others go with
    it.
    """

    keys: tuple[str, ...]
    maker: Maker
    columns: tuple[str, ...]
    titles: tuple[str, ...]


_THEMES = (
    _Theme(
        ("Item", "Product", "Article", "Goods"),
        article,
        ("Price", "Qty", "Stock", "Size", "Colour", "Weight", "Code", "Total", "Price", "Cost"),
        ("Price list", "Shop", "Order", "Stock", "Market"),
    ),
    _Theme(
        ("Name", "Name", "Person", "Player", "Guest"),
        person,
        ("Age", "City", "Job", "Score", "Height", "Room", "Phone", "Day", "Points", "Level"),
        ("Members", "Team", "Guests", "Staff", "Results"),
    ),
    _Theme(
        ("To", "City", "Stop", "Station"),
        place,
        ("Departs", "Arrives", "Platform", "Gate", "Status", "Day", "Time", "Price"),
        ("Timetable", "Trains", "Buses", "Flights"),
    ),
    _Theme(
        ("Train", "Bus", "Line", "Flight"),
        code,
        ("City", "Departs", "Arrives", "Platform", "Status", "Day"),
        ("Timetable", "Departures", "Today"),
    ),
    _Theme(
        ("Team", "Club"),
        place,
        ("Won", "Lost", "Drawn", "Goals", "Points", "Rank"),
        ("League", "Season", "Table", "Cup"),
    ),
    _Theme(
        ("Day",),
        _one_of(*DAYS),
        ("High", "Low", "Rain", "Wind", "Sales", "Orders"),
        ("Weather", "This week", "Week"),
    ),
    _Theme(
        ("Month",),
        _one_of(*MONTHS),
        ("Sales", "Cost", "Profit", "Orders", "Rain", "Share"),
        ("Report", "The year", "Business"),
    ),
    _Theme(
        ("Student", "Pupil", "Name"),
        person,
        tuple(_SUBJECTS.split()),
        ("Marks", "Grades", "School", "Exam"),
    ),
    _Theme(
        ("City", "Place", "Shop"),
        place,
        ("2019", "2020", "2021", "2022", "2023", "2024", "2025"),
        ("Visitors", "Sales", "Numbers"),
    ),
)


def table(rng: random.Random, split: str, rows: int, cols: int) -> tuple[str, Table]:
    """A title and a table of `rows` x `cols` cells below its header. The cells of the first column
    and of the header are all different.
    """
    if rng.random() < (0.35 if split == "train" else 0.2):
        return _chance(rng, split, rows, cols)
    theme = rng.choice(_THEMES)
    columns = list(dict.fromkeys(theme.columns))
    key = rng.choice(theme.keys)
    chosen = rng.sample([name for name in columns if name != key], cols - 1)
    keys = different(rng, split, theme.maker, rows)
    if key in ("Day", "Month") and rng.random() < 0.7:  # in a row, as calendars have them
        cycle = DAYS if key == "Day" else MONTHS
        start = rng.randrange(len(cycle))
        keys = [cycle[(start + i) % len(cycle)] for i in range(rows)]
    makers = [COLUMNS.get(name, _whole(0, 100)) for name in chosen]
    body = [[first, *(maker(rng, split) for maker in makers)] for first in keys]
    styles: tuple[Callable[[str], str], ...] = (str, str, str, str.capitalize)
    style = rng.choice(styles)
    body = [[_styled(cell, style) for cell in row] for row in body]
    header = [key, *chosen]
    if rng.random() < 0.12:
        header = [name.upper() for name in header]
    money = rng.choice(("", "", "", "$"))
    body = [
        [money + cell if name.title() in ("Price", "Total") else cell for name, cell in named]
        for named in ([*zip(header, row, strict=True)] for row in body)
    ]
    return rng.choice(theme.titles), Table(tuple(header), tuple(tuple(row) for row in body))


def _styled(cell: str, style: Callable[[str], str]) -> str:
    return style(cell) if cell.isalpha() and cell.islower() else cell


def different(rng: random.Random, split: str, maker: Maker, number: int) -> list[str]:
    """`number` cells that differ from each other in any case."""
    found: dict[str, str] = {}
    while len(found) < number:
        cell = maker(rng, split)
        if len(cell) <= MAX_CELL:
            found.setdefault(cell.lower(), cell)
    return list(found.values())


def _chance(rng: random.Random, split: str, rows: int, cols: int) -> tuple[str, Table]:
    """Headings and cells that have nothing to do with each other."""
    style: Callable[[str], str] = rng.choice((str.capitalize, str.capitalize, str.upper, str))
    header = [style(name) for name in different(rng, split, word, cols)]
    key = rng.choice((word, word, code, person))
    style = rng.choice((str.capitalize, str, str, str.upper))
    columns = [[_styled(cell, style) for cell in different(rng, split, key, rows)]]
    for _ in range(cols - 1):
        maker = rng.choice((_number, _number, word, code, _time, _price, _date, person))
        columns.append([_styled(maker(rng, split), style) for _ in range(rows)])
    title = " ".join(word(rng, split) for _ in range(rng.randint(1, 2))).capitalize()
    return title, Table(tuple(header), tuple(zip(*columns, strict=True)))
