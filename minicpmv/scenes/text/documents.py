"""Draw print: words, numbers, lines, pages, receipts, forms, signs and code.

Some layouts are kept for the held-out split: numbered lists and centred verse, receipts that begin
with the total, forms with the value under its name, signs with a frame in a frame, code at
Python's own prompt.
"""

import random
from collections.abc import Callable

from minicpmv.scenes.figures.things import (
    Layout,
    draw,
    sample_ground,
    sample_rgb,
    sample_size,
    sample_thing,
    scatter,
    visible,
)
from minicpmv.scenes.scene import Scene
from minicpmv.scenes.text import fonts, phrases, words
from minicpmv.scenes.text.lettering import MIN_CONTRAST, Sheet, largest_size, luminance, random_word
from minicpmv.scenes.text.typesetting import Inks, Row, print_rows, print_single

KINDS = {
    "word": 20.0,
    "number": 6.0,
    "line": 24.0,
    "page": 16.0,
    "receipt": 4.0,
    "form": 4.0,
    "sign": 4.0,
    "code": 3.0,
}
MAX_PAGE_LINE = 28  # characters of a line on a page
THINGS_SHARE = 0.2  # words with figures beside them
Fields = tuple[tuple[str, str], ...]


def paint(
    rng: random.Random, split: str, seed: int, kind: str, size: tuple[int, int] | None = None
) -> Scene:
    """Draw one of `KINDS`; `size` is (height, width) in pixels, None draws lots."""
    if kind == "word" and rng.random() < THINGS_SHARE:
        return _word_and_things(rng, split, seed, size or sample_size(rng))
    if kind in ("word", "number", "line"):
        makers: dict[str, Callable[[random.Random, str], str]]
        makers = {"word": phrases.word, "number": phrases.number, "line": phrases.sample_line}
        sheet, background = print_single(rng, makers[kind](rng, split), kind, split, size)
        return Scene(split, seed, sheet.image, background, (), tuple(sheet.texts), kind)
    fields: Fields = ()
    if kind == "page":
        sheet = print_rows(rng, _page(rng, split), size)
    elif kind == "receipt":
        rows, fields = _receipt(rng, split)
        sheet = print_rows(rng, rows, size, inks=_paper(rng), sizes=(13, 22))
    elif kind == "form":
        rows, fields = _form(rng, split)
        sheet = print_rows(rng, rows, size, inks=_paper(rng), sizes=(13, 24))
    elif kind == "sign":
        rows, fields = _sign(rng, split)
        sheet = print_rows(rng, rows, size, sizes=(16, 40))
        _frame(rng, split, sheet)
    else:
        sheet = print_rows(rng, _code(rng, split), size, inks=_screen(rng), sizes=(13, 22))
    return Scene(split, seed, sheet.image, "", (), tuple(sheet.texts), kind, fields=fields)


def _word_and_things(rng: random.Random, split: str, seed: int, size: tuple[int, int]) -> Scene:
    """A large word or number with up to two figures that keep clear of it."""
    height, width = size
    is_number = rng.random() < 0.3
    text = str(rng.randint(0, 9999)) if is_number else random_word(rng, split)
    face = fonts.choose(split, rng)
    fit = largest_size(face, text, 0.36 * height, 0.9 * width)
    size_px = max(1, round(fit * rng.uniform(0.6, 1.0)))
    box = fonts.load(face, size_px).getbbox(text, anchor="ls", stroke_width=2 * face.stroke)
    left = 1 + rng.random() * max(0, width - 2 - (box[2] - box[0])) - box[0]
    baseline = 1 + rng.random() * max(0, height - 2 - (box[3] - box[1])) - box[1]
    ground = sample_ground(rng)
    palette = visible(ground)
    places = [
        (centre, radius)
        for centre, radius in scatter(4, size, rng, lambda: rng.uniform(0.1, 0.24))
        if not (
            baseline + box[1] - 0.02 * height < centre[0] * height + radius * min(size)
            and centre[0] * height - radius * min(size) < baseline + box[3] + 0.02 * height
        )
    ]
    things = tuple(
        sample_thing(rng.choice(_THINGS), rng.choice(palette), centre, radius, ground, rng)
        for centre, radius in places[: rng.randint(1, 2)]
    )
    scene = draw(Layout(size, ground, things), split, seed, "word")
    legible = [
        (colour, rgb)
        for colour in rng.sample(palette, len(palette))
        if abs(luminance(rgb := sample_rgb(colour, ground, rng)) - luminance(ground.rgb))
        > MIN_CONTRAST
    ]
    sheet = Sheet(height, width, ground.rgb, ground.rgb, scene.image)
    if legible and size_px >= 6:
        colour, rgb = legible[0]
        kind = "number" if is_number else "word"
        sheet.write(text, face, size_px, left, baseline, kind=kind, rgb=rgb, colour=colour)
    return Scene(split, seed, sheet.image, ground.name, scene.figures, tuple(sheet.texts), "word")


_THINGS = ("circle", "square", "rectangle", "triangle", "diamond", "star", "heart", "cross")


def _paper(rng: random.Random) -> Inks | None:
    """Mostly black on white, as offices print."""
    lot = rng.random()
    if lot < 0.6:
        level, white = rng.randint(0, 60), rng.randint(235, 255)
        return (level, level, level), (white, white, white)
    return ((20, 20, 30), rng.choice(((250, 244, 225), (228, 238, 250)))) if lot < 0.75 else None


def _screen(rng: random.Random) -> Inks | None:
    """The colours of terminals and editors."""
    schemes: list[Inks | None] = [
        ((235, 235, 235), (15, 15, 15)),
        ((60, 235, 90), (0, 0, 0)),
        ((248, 248, 242), (40, 42, 54)),
        ((220, 220, 220), (48, 10, 36)),
        ((36, 41, 47), (255, 255, 255)),
        ((101, 123, 131), (253, 246, 227)),
        None,
    ]
    return rng.choice(schemes)


def _page(rng: random.Random, split: str) -> list[Row]:
    face = fonts.choose(split, rng)
    head = face if rng.random() < 0.6 else fonts.choose(split, rng)
    total = rng.randint(2, 8)
    held_out = ("numbers", "verse") if split == "test" else ("list",)
    style = rng.choice(("prose", "prose", "lines", "title", "screen", *held_out))
    rows: list[Row] = []
    if style in ("title", "screen") or rng.random() < 0.25:
        text = phrases.phrase(rng, split)
        if len(text) > MAX_PAGE_LINE:  # as many whole words as fit
            text = text[: MAX_PAGE_LINE + 1].rpartition(" ")[0] or text[:MAX_PAGE_LINE]
        align = rng.choice(("left", "centre"))
        scale = rng.uniform(1.0, 1.5)
        mark = rng.choice(("", "", "", "", "underlined", "band"))
        rows.append(Row(text, head, scale, align=align, accent=rng.random() < 0.4, mark=mark))
    wide = rng.randint(14, MAX_PAGE_LINE)
    gap = rng.choice((0.3, 0.6)) if rows else 0.0
    while len(rows) < total:
        if style in ("prose", "title"):
            number = min(rng.randint(2, total), total - len(rows))
            texts = phrases.paragraph(rng, split, wide, number)
        else:
            texts = [phrases.sample_line(rng, split, wide - 3)]
        if style == "list":
            texts = [f"{rng.choice('-*')} {text}" for text in texts]
        elif style == "numbers":
            texts = [f"{len(rows) + 1}. {text}" for text in texts]
        for text in texts:
            align = "centre" if style == "verse" else "left"
            mark, indent = "", 0.0
            if style == "screen" and rng.random() < 0.45:  # links and buttons
                mark = rng.choice(("underlined", "button", "box"))
                gap, indent = (0.0, 0.0) if mark == "underlined" else (max(gap, 0.5), 0.5)
            rows.append(Row(text, face, gap=gap, indent=indent, align=align, mark=mark))
            gap = 0.5 if mark in ("button", "box") else 0.0
        if style in ("prose", "title"):
            gap = rng.choice((0.0, 0.7))
    return rows


def _receipt(rng: random.Random, split: str) -> tuple[list[Row], Fields]:
    face = fonts.choose(split, rng, monospaced=rng.random() < 0.5)
    sign = rng.choice(("", "", "$"))
    count = rng.randint(1, 5)
    items = rng.sample(words.vocabulary("item", split), count)
    cents = [rng.choice((rng.randint(30, 999), rng.randint(30, 2999))) for _ in items]
    upper = rng.random() < 0.25

    def money(amount: int) -> str:
        return f"{sign}{amount // 100}.{amount % 100:02d}"

    def row(name: str, value: str, **options: object) -> Row:
        return Row(name.upper() if upper else name, face, second=value, **options)  # type: ignore[arg-type]

    shop = f"{_new_name(rng, split)} {rng.choice(('Market', 'Store', 'Shop', 'Cafe', 'Foods'))}"
    day, hour = phrases.date(rng), phrases.time(rng)
    top = [Row(shop, face, rng.uniform(1.0, 1.35), align="centre")]
    fields = [("shop", shop)]
    when = [row("Date", day, gap=0.4)] if rng.random() < 0.5 else [Row(day, face, align="centre")]
    if rng.random() < 0.4:
        when.append(row("Time", hour))
        fields.append(("time", hour))
    fields.append(("date", day))
    body = [
        row(item, money(price), gap=0.5 if i == 0 else 0.0)
        for i, (item, price) in enumerate(zip(items, cents, strict=True))
    ]
    fields += [(item, money(price)) for item, price in zip(items, cents, strict=True)]
    total = sum(cents)
    sums = []
    if rng.random() < 0.35:
        tax = round(total * rng.choice((0.05, 0.07, 0.1, 0.2)))
        sums += [row("Subtotal", money(total), rule="above", gap=0.3), row("Tax", money(tax))]
        fields += [("subtotal", money(total)), ("tax", money(tax))]
        total += tax
    rule = "" if sums else "above"
    scale = rng.choice((1.0, 1.0, 1.2))
    sums.append(row("Total", money(total), scale=scale, gap=0.3, rule=rule))
    fields.append(("total", money(total)))
    if rng.random() < 0.3:
        cash = -(-total // 500) * 500
        sums += [row("Cash", money(cash)), row("Change", money(cash - total))]
        fields += [("cash", money(cash)), ("change", money(cash - total))]
    if split == "test" and rng.random() < 0.4:
        rows = [*top, *sums, *body, *when]
    else:
        rows = [*top, *when, *body, *sums] if rng.random() < 0.7 else [*top, *body, *sums, *when]
    if rng.random() < 0.4:
        text = rng.choice(("Thank you!", "Thank you", "Come again", "Have a nice day"))
        rows.append(Row(text, face, gap=0.6, align="centre"))
    return rows, tuple(fields)


def _new_name(rng: random.Random, split: str) -> str:
    sort = rng.choice(("last name", "city", ""))
    return rng.choice(words.vocabulary(sort, split)) if sort else random_word(rng, split).title()


def _form(rng: random.Random, split: str) -> tuple[list[Row], Fields]:
    face = fonts.choose(split, rng)
    filled = face if rng.random() < 0.6 else fonts.choose(split, rng)
    makers: dict[str, Callable[[], str]] = {
        "Name": lambda: phrases.person(rng, split),
        "Date": lambda: phrases.date(rng),
        "City": lambda: rng.choice(words.vocabulary("city", split)),
        "Phone": lambda: f"555-{rng.randint(1000, 9999)}",
        "Age": lambda: str(rng.randint(1, 99)),
        "Address": lambda: f"{rng.randint(1, 99)} {_new_name(rng, split)} {_road(rng)}",
        "Email": lambda: f"{random_word(rng, split).lower()}@{random_word(rng, split).lower()}.com",
        "ID": lambda: phrases.code(rng, split).replace(" ", "-"),
        "Room": lambda: str(rng.randint(1, 599)),
        "Amount": lambda: f"${phrases.amount(rng)}",
        "Order": lambda: f"{rng.randint(1000, 99999)}",
        "Company": lambda: f"{_new_name(rng, split)} {rng.choice(('Ltd', 'Inc', 'Co'))}",
        "Date of birth": lambda: phrases.date(rng),
        "First name": lambda: rng.choice(words.vocabulary("first name", split)),
        "Last name": lambda: rng.choice(words.vocabulary("last name", split)),
        "Subject": lambda: random_word(rng, split).capitalize(),
        "Time": lambda: phrases.time(rng),
        "Weight": lambda: f"{rng.randint(1, 120)} kg",
    }
    count = rng.randint(2, 5 if split == "test" else 6)
    names = rng.sample(list(makers), count)
    if rng.random() < 0.6 and "Name" not in names:
        names[0] = "Name"
    if "Name" in names:  # else two names could be meant
        names = [name for name in names if name not in ("First name", "Last name")]
    fields = tuple((name, makers[name]()) for name in names)
    rows = []
    if rng.random() < 0.7:
        title = rng.choice(
            ("Application", "Registration", "Invoice", "Order form", "Visitor", "Booking", "Ticket")
        )
        title = title.upper() if rng.random() < 0.3 else title
        scale = rng.uniform(1.1, 1.5)
        align = rng.choice(("left", "centre"))
        rule = rng.choice(("", "below"))
        rows.append(Row(title, face, scale, align=align, rule=rule, accent=rng.random() < 0.3))
    style = rng.choice(("inline", "column", "column", "ruled"))
    if split == "test" and rng.random() < 0.35:
        style = "under"
    colon = ":" if style == "inline" else rng.choice(("", ":"))
    column = 0.62 * max(len(name) for name in names) + 1.5
    gap = rng.choice((0.1, 0.4, 0.7))
    for name, value in fields:
        if style == "inline":
            rows.append(Row(f"{name}{colon} {value}", face, gap=gap))
        elif style == "under":
            rows.append(Row(f"{name}{colon}", face, gap=gap + 0.3, accent=True))
            rows.append(Row(value, filled))
        else:
            rule = "second" if style == "ruled" else ""
            rows.append(
                Row(f"{name}{colon}", face, gap=gap, second=value, column=column, rule=rule)
            )
    return rows, fields


def _road(rng: random.Random) -> str:
    return rng.choice(("Street", "Road", "Lane", "Ave."))


def _sign(rng: random.Random, split: str) -> tuple[list[Row], Fields]:
    face = fonts.choose(split, rng)
    first, last = rng.randint(6, 11), rng.randint(13, 22)
    name = random_word(rng, split).title()
    number = str(rng.randint(1, 99))
    lot = rng.randrange(8)
    fields: Fields = ()
    if lot == 0:
        begin, end = f"{first}:{rng.choice(('00', '30'))}", f"{last}:{rng.choice(('00', '30'))}"
        lines = [rng.choice(("OPEN", "Open", "We are open", name)), f"{begin} - {end}"]
        fields = (("opens", begin), ("closes", end))
    elif lot == 1:
        lines = [rng.choice(("Platform", "Gate", "Room", "Floor", "Exit", "Track")), number]
        fields = ((lines[0], number),)
        if rng.random() < 0.5:
            lines = [" ".join(lines)]
    elif lot == 2:
        lines = [rng.choice(("NO", "No")), rng.choice(("PARKING", "Smoking", "ENTRY", "Dogs"))]
    elif lot == 3:
        lines = [f"{name} {rng.choice(('Street', 'Road', 'Square', 'Park', 'Bridge'))}"]
    elif lot == 4:
        place = rng.choice(words.vocabulary("city", split))
        lines, fields = [place, f"{number} km"], ((place, f"{number} km"),)
        if rng.random() < 0.5:
            others = [city for city in words.vocabulary("city", split) if city != place]
            other, away = rng.choice(others), f"{rng.randint(100, 999)} km"
            lines, fields = [*lines, other, away], (*fields, (other, away))
    elif lot == 5:
        price = f"${phrases.amount(rng)}"
        item = rng.choice(words.vocabulary("item", split))
        lines, fields = (
            [rng.choice(("SALE", "Offer", "Today", "NEW")), item, price],
            ((item, price),),
        )
    elif lot == 6:
        lines = [
            rng.choice(("CAUTION", "DANGER", "WARNING", "NOTICE", "STOP")),
            phrases.sample_line(rng, split, 16),
        ]
    else:
        lines = [phrases.sample_line(rng, split, 14) for _ in range(rng.randint(1, 3))]
    scales = [rng.choice((1.0, 1.0, 1.4)) for _ in lines]
    return [Row(t, face, s, align="centre") for t, s in zip(lines, scales, strict=True)], fields


def _frame(rng: random.Random, split: str, sheet: Sheet) -> None:
    """Draw the rim of a sign where there is room for it."""
    room = min(
        [
            side
            for text in sheet.texts
            for side in (
                text.box[0] * sheet.height,
                text.box[1] * sheet.width,
                (1 - text.box[2]) * sheet.height,
                (1 - text.box[3]) * sheet.width,
            )
        ],
        default=0.0,
    )
    if room < 5 or rng.random() < 0.3:
        return
    pen = max(1, min(5, int(room / 4)))
    edge = pen // 2 + 1
    corners = edge, edge, sheet.width - 1 - edge, sheet.height - 1 - edge
    radius = rng.choice((0, 2 * pen))
    sheet.draw.rounded_rectangle(corners, radius, outline=sheet.ink, width=pen)
    if split == "test" and room > 12:
        inner = edge + pen + 2
        corners = inner, inner, sheet.width - 1 - inner, sheet.height - 1 - inner
        sheet.draw.rectangle(corners, outline=sheet.ink, width=1)


def _code(rng: random.Random, split: str) -> list[Row]:
    """A few lines of Python or of a terminal."""
    face = fonts.choose(split, rng, monospaced=True)
    indented = _python(rng, split) if rng.random() < 0.5 else _terminal(rng, split)
    if split == "test" and rng.random() < 0.3:
        indented = [(0, f">>> {random_word(rng, split).lower()}({rng.randint(0, 99)})"), *indented]
    shows_numbers = split == "train" and rng.random() < 0.2
    rows = []
    for i, (depth, text) in enumerate(indented[:8]):
        text = f"{i + 1} {text}" if shows_numbers else text
        rows.append(Row(text, face, indent=2.2 * depth, accent=rng.random() < 0.15))
    return rows


def _python(rng: random.Random, split: str) -> list[tuple[int, str]]:
    def name() -> str:
        return random_word(rng, split).lower()

    a, b, f, n = name(), name(), name(), rng.randint(0, 99)
    blocks: tuple[list[tuple[int, str]], ...] = (
        [(0, f"def {f}({a}, {b}):"), (1, f"return {a} {rng.choice('+-*/%')} {b}")],
        [(0, f"for {a} in range({n}):"), (1, f"print({a})")],
        [(0, f"if {a} {rng.choice(('==', '>', '<=', '!='))} {n}:"), (1, f"{b} = {a} + 1")],
        [(0, f"import {a}"), (0, f"from {b} import {f}")],
        [(0, f"{a} = [{n}, {n + 1}, {n + 3}]"), (0, f"{b} = len({a})")],
        [(0, f'{a} = "{b}"'), (0, f'{f}["{a}"] = {n}')],
        [(0, f"while {a} < {n}:"), (1, f"{a} += {rng.randint(1, 9)}")],
        [(0, f"# {a} {b}"), (0, f"{f} = {{'{a}': {n}}}")],
        [(0, "try:"), (1, f"{a}.{f}()"), (0, "except ValueError:"), (1, "pass")],
    )
    chosen = rng.sample(blocks, rng.randint(1, 3))
    return [line for block in chosen for line in block]


def _terminal(rng: random.Random, split: str) -> list[tuple[int, str]]:
    def name() -> str:
        return random_word(rng, split).lower()

    prompt = rng.choice(("$ ", "$ ", "> ", "~$ ", "# "))
    commands: tuple[list[str], ...] = (
        [f"{prompt}ls {name()}", f"{name()}.txt  {name()}.py".replace("  ", " ")],
        [f"{prompt}cd {name()}/{name()}"],
        [f"{prompt}pip install {name()}", f"{name()} {rng.randint(0, 9)}.{rng.randint(0, 20)}.0"],
        [f"{prompt}git commit -m '{name()}'", f"[main {rng.getrandbits(28):07x}] {name()}"],
        [f"{prompt}cat {name()}.log", f"ERROR {rng.randint(100, 599)}: {name()}"],
        [f"{prompt}python {name()}.py", f"step {rng.randint(1, 999)} loss {rng.uniform(0, 9):.3f}"],
        [f"{prompt}wc -l {name()}.csv", f"{rng.randint(1, 9999)} {name()}.csv"],
        [f"{prompt}echo ${name().upper()}", f"{name()}"],
        [f"{prompt}mkdir -p {name()}/{name()}"],
    )
    chosen = rng.sample(commands, rng.randint(1, 3))
    return [(0, line) for block in chosen for line in block]
