"""Draw print: a word, a number, a line, a page; and the questions about what is written.

A page is laid out as a list of lines at one font size, then printed on a sheet made to measure, or
as large as the given sheet allows.
"""

import dataclasses
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minicpmv.scenes import colours, figures, fonts
from minicpmv.scenes.lettering import (
    MIN_CONTRAST,
    PRINTABLE,
    Sheet,
    accent,
    ink_and_paper,
    largest_size,
    luminance,
    random_word,
    width_of,
)
from minicpmv.scenes.scene import Question, Scene

KINDS = {"word": 20.0, "number": 6.0, "line": 24.0, "page": 16.0}
SLICE_PX = 224  # what the model sees at once, squared
MAX_SLICES = 9
MAX_LINE = 24  # characters of a single line
MAX_PAGE_LINE = 28  # and of a line on a page
MIN_GLYPH_PX = 11
PAGE_SIZES = (13, 26)  # font sizes of body text, in pixels
FIGURES_SHARE = 0.2  # words with figures beside them
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def paint(
    rng: random.Random, split: str, seed: int, kind: str, size: tuple[int, int] | None = None
) -> Scene:
    """Draw one of `KINDS`; `size` is (height, width) in pixels, None draws lots."""
    if kind == "word" and rng.random() < FIGURES_SHARE:
        return figures.paint(rng, split, seed, kind, size)
    if kind in ("word", "number", "line"):
        text = {"word": _word, "number": _number, "line": sample_line}[kind](rng, split)
        return _single(rng, split, seed, kind, text, size)
    return _print(rng, split, seed, kind, _page(rng, split), size)


# What is printed.


def _word(rng: random.Random, split: str) -> str:
    lot = rng.random()
    if lot < 0.08:
        return "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(2, 7)))
    return random_word(rng, split)


def _date(rng: random.Random) -> str:
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


def _time(rng: random.Random) -> str:
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    return rng.choice(
        (f"{hour:02d}:{minute:02d}", f"{hour % 12 + 1}:{minute:02d} {'ap'[hour > 11]}m")
    )


def _amount(rng: random.Random) -> str:
    whole = rng.choice((rng.randint(0, 9), rng.randint(10, 99), rng.randint(100, 999)))
    return f"{whole}.{rng.randint(0, 99):02d}"


def _number(rng: random.Random, split: str) -> str:
    whole = str(rng.randint(0, 10 ** rng.randint(1, 6) - 1))
    return rng.choice(
        (
            whole,
            whole,
            whole,
            _amount(rng),
            f"${_amount(rng)}",
            f"{int(whole):,}",
            f"{rng.randint(0, 100)}%",
            _time(rng),
            _date(rng),
            f"-{rng.randint(1, 99)}",
            f"No. {rng.randint(1, 999)}",
            f"+{rng.randint(1, 99)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}",
        )
    )


def _code(rng: random.Random, split: str) -> str:
    symbols = string.ascii_uppercase + string.digits
    parts = ["".join(rng.choices(symbols, k=rng.randint(2, 4))) for _ in range(rng.randint(1, 3))]
    return rng.choice("-/ ").join(parts)


def _phrase(rng: random.Random, split: str) -> str:
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


def _labelled(rng: random.Random, split: str) -> str:
    value = rng.choice((_number(rng, split), _amount(rng), _date(rng), _code(rng, split)))
    return f"{random_word(rng, split).capitalize()}{rng.choice((' ', ': ', ' = '))}{value}"


def _address(rng: random.Random, split: str) -> str:
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
    makers = (_phrase, _phrase, _phrase, _phrase, _labelled, _labelled, _number, _code, _address)
    while True:
        if split == "train" and rng.random() < 0.08:  # any signs at all
            length = rng.randint(3, longest)
            text = "".join(rng.choices(PRINTABLE + " " * 12, k=length))
            text = " ".join(text.split())
        else:
            text = rng.choice(makers)(rng, split)
        if 2 <= len(text) <= longest:
            return text


# One word or line.


def _single(
    rng: random.Random, split: str, seed: int, kind: str, text: str, size: tuple[int, int] | None
) -> Scene:
    """One line, large on a canvas, or cut out tightly."""
    face = fonts.choose(split, rng)
    ink, paper = ink_and_paper(rng)
    colour, background = "", ""
    if rng.random() < 0.4:  # colours with names
        paper_name = rng.choice(colours.PLAIN_BACKGROUNDS)
        paper = colours.sample_rgb(paper_name, rng)
        names = [name for name in colours.COLOURS if name != paper_name]
        for _attempt in range(12):
            colour = rng.choice(names)
            ink = colours.sample_rgb(colour, rng)
            if abs(luminance(ink) - luminance(paper)) > MIN_CONTRAST:
                break
        else:
            ink, colour = ((0, 0, 0), "black") if sum(paper) > 380 else ((255, 255, 255), "white")
        background = paper_name
    line_kind = kind if kind in ("word", "number") else "line"
    if size is None and rng.random() < 0.5:
        size_px = rng.randint(16, 64)
        width = width_of(face, size_px, text) + size_px * rng.uniform(0.2, 1.6)
        height = size_px * rng.uniform(1.25, 2.2)
        # Long lines must not shrink below legibility: the crop is at most one slice in area.
        shrink = min(1.0, SLICE_PX / (width * height) ** 0.5)
        size = max(24, round(height * shrink)), max(24, round(width * shrink))
        share = 1.0
        if size[1] < 0.4 * size[0]:
            size = size[0], round(0.4 * size[0])
    elif size is None:
        share = rng.uniform(0.45, 1.0)
        for _attempt in range(20):
            size = _canvas(rng)
            if largest_size(face, text, 0.8 * size[0], 0.94 * size[1] - 2) >= _legible_px(*size):
                break
        else:
            size = SLICE_PX // 2, 2 * SLICE_PX
    else:
        share = rng.uniform(0.7, 1.0)
    height, width = size
    fit = largest_size(face, text, 0.8 * height, 0.94 * width - 2)
    size_px = min(fit, max(round(share * fit), _legible_px(height, width)))
    sheet = Sheet(height, width, paper, ink)
    if size_px >= 7:
        box = fonts.load(face, size_px).getbbox(text, anchor="ls", stroke_width=2 * face.stroke)
        slack_x = max(0.0, width - 2 - (box[2] - box[0]))
        slack_y = max(0.0, height - 2 - (box[3] - box[1]))
        left = 1 + slack_x * rng.random() - box[0]
        baseline = 1 + slack_y * rng.random() - box[1]
        sheet.write(text, face, size_px, left, baseline, kind=line_kind, colour=colour)
    return Scene(split, seed, sheet.image, background, (), tuple(sheet.texts), kind)


def _legible_px(height: int, width: int) -> int:
    """The least font size on a picture that is seen as one slice."""
    return round(1.2 * MIN_GLYPH_PX * max(1.0, (height * width) ** 0.5 / SLICE_PX))


def _canvas(rng: random.Random) -> tuple[int, int]:
    """Height and width: mostly one slice."""
    lot = rng.random()
    if lot < 0.3:
        return SLICE_PX, SLICE_PX
    side = rng.uniform(130, SLICE_PX) if lot < 0.9 else rng.uniform(SLICE_PX, 2 * SLICE_PX)
    ratio = rng.uniform(0.5, 3.0)
    return round(side / ratio**0.5), round(side * ratio**0.5)


# Pages.


@dataclass(frozen=True)
class Row:
    """One line of a layout. Lengths are in ems of the body size."""

    text: str
    face: fonts.Face
    scale: float = 1.0
    gap: float = 0.0  # free room above
    indent: float = 0.0
    align: str = "left"  # "left", "centre" or "right"
    right: str = ""  # a second piece, at the right margin
    tone: int = 0  # number of the ink: 0 the usual one
    kind: str = "line"
    rule: bool = False  # a line drawn below

    @property
    def length(self) -> int:
        return len(self.text) + (len(self.right) + 3 if self.right else 0)


def _page(rng: random.Random, split: str) -> list[Row]:
    face = fonts.choose(split, rng)
    head = face if rng.random() < 0.6 else fonts.choose(split, rng)
    total = rng.randint(2, 8)
    rows: list[Row] = []
    # The layouts of the held-out split: numbered lists, and centred verse.
    style = rng.choice(
        ("prose", "lines", "list", "title")
        if split == "train"
        else ("prose", "lines", "title", "numbers", "verse")
    )
    if style == "title" or rng.random() < 0.25:
        text = _phrase(rng, split)[:MAX_PAGE_LINE].strip()
        align = rng.choice(("left", "centre"))
        rows.append(Row(text, head, rng.uniform(1.0, 1.5), align=align, tone=rng.random() < 0.4))
    wide = rng.randint(14, MAX_PAGE_LINE)
    if style in ("prose", "title"):
        gap = 0.6 if rows else 0.0
        while len(rows) < total:
            number = rng.randint(2, total)
            for text in _paragraph(rng, split, wide, min(number, total - len(rows))):
                rows.append(Row(text, face, gap=gap))
                gap = 0.0
            gap = rng.choice((0.0, 0.7))
    while len(rows) < total:
        text = sample_line(rng, split, wide)
        gap = 0.5 if len(rows) == 1 else 0.0
        if style == "list":
            text = f"{rng.choice('-*')} {text}"[:MAX_PAGE_LINE]
        elif style == "numbers":
            text = f"{len(rows) + 1}. {text}"[:MAX_PAGE_LINE].strip()
        rows.append(Row(text, face, gap=gap, align="centre" if style == "verse" else "left"))
    return rows


def _paragraph(rng: random.Random, split: str, wide: int, total: int) -> list[str]:
    """Sentences broken into `total` lines of at most `wide` characters."""
    lines = [""]
    start = True
    while True:
        word = random_word(rng, split)
        word = word.capitalize() if start else word.lower()
        if rng.random() < 0.08:
            word = _number(rng, split).replace(" ", "")
        word = word[:wide]
        start = rng.random() < 0.15
        if start:
            word = word[: wide - 1] + rng.choice("...?!")
        elif rng.random() < 0.08:
            word = word[: wide - 1] + ","
        if len(lines[-1]) + 1 + len(word) <= wide or not lines[-1]:
            lines[-1] = f"{lines[-1]} {word}".strip()
        elif len(lines) == total:
            return lines
        else:
            lines.append(word)
        if len(lines) == total and lines[-1] and rng.random() < 0.1:
            return lines


def _extent(rows: Sequence[Row], size_px: int, spacing: float) -> tuple[float, float]:
    """Height and width of the rows in pixels, without margins."""
    height = width = 0.0
    for row in rows:
        row_px = max(1, round(size_px * row.scale))
        needed = row.indent * size_px + width_of(row.face, row_px, row.text)
        if row.right:
            needed += 1.5 * size_px + width_of(row.face, row_px, row.right)
        width = max(width, needed)
        height += row.gap * size_px + spacing * row_px
    return height, width


def _print(
    rng: random.Random,
    split: str,
    seed: int,
    kind: str,
    rows: list[Row],
    size: tuple[int, int] | None,
    fields: tuple[tuple[str, str], ...] = (),
) -> Scene:
    """Print rows on a sheet made to measure, or as large as `size` allows."""
    ink, paper = ink_and_paper(rng)
    tones = (ink, accent(rng, paper, ink))
    spacing = rng.uniform(1.15, 1.7)
    low, high = PAGE_SIZES
    size_px = round(low * (high / low) ** rng.random())
    if size is None:
        while True:
            height, width = _extent(rows, size_px, spacing)
            margins = [size_px * rng.uniform(0.4, 2.0) for _ in range(4)]
            height, width = height + margins[0] + margins[1], width + margins[2] + margins[3]
            if rng.random() < 0.3:  # paper left blank
                height *= rng.uniform(1.0, 1.4)
            height, width = max(height, width / 2.4), max(width, height / 2.4)
            if height * width < MAX_SLICES * SLICE_PX**2 or size_px <= 10:
                break
            size_px -= 2
        size = round(height), round(width)
    else:
        for size_px in range(size_px, 5, -1):  # noqa: B020
            height, width = _extent(rows, size_px, spacing)
            if height + size_px < size[0] and width + size_px < size[1]:
                break
        margins = [0.5 * size_px] * 4
    height, width = size
    needed_height, needed_width = _extent(rows, size_px, spacing)
    spare = max(0.0, width - needed_width - margins[2] - margins[3])
    left = margins[2] + spare * rng.choice((0.0, 0.0, rng.random()))
    right = max(left + needed_width, width - margins[3] - spare * rng.choice((0.0, rng.random())))
    top = margins[0] + rng.choice((0.0, rng.random())) * max(
        0.0, height - needed_height - margins[0] - margins[1]
    )
    sheet = Sheet(height, width, paper, ink)
    y = top
    for row in rows:
        row_px = max(1, round(size_px * row.scale))
        y += row.gap * size_px + spacing * row_px
        baseline = y - (0.22 + (spacing - 1) / 2) * row_px
        text_width = width_of(row.face, row_px, row.text)
        x = left + row.indent * size_px
        if row.align == "centre":
            x = (left + right - text_width) / 2
        elif row.align == "right":
            x = right - text_width
        if baseline + 0.1 * row_px > height or x < 0 or x + text_width > width + 1:
            continue  # a sheet too small for it
        pieces = [(row.text, x)]
        if row.right:
            pieces.append((row.right, right - width_of(row.face, row_px, row.right)))
        sheet.write_pieces(pieces, row.face, row_px, baseline, row.kind, tones[row.tone])
        if row.rule:
            level = round(baseline + 0.35 * row_px)
            sheet.draw.line([(left, level), (right, level)], fill=ink, width=max(1, size_px // 16))
    return Scene(split, seed, sheet.image, "", (), tuple(sheet.texts), kind, fields=fields)


# Questions.

_READ = (
    "What does it say?",
    "What is written here?",
    "Read the text.",
    "What is the text?",
    "What is written in the image?",
    "What text is in the picture?",
    "What does the picture say?",
    "What text do you see?",
)
_TRANSCRIBE = (
    "Read the page.",
    "Transcribe the text.",
    "What is written here?",
    "Read the text in the image.",
    "What does it say?",
    "Write down all the text.",
    "OCR this image.",
    "Extract the text from the image.",
    "What text is in the picture?",
)
_ORDINALS = ("first", "second", "third", "fourth")


def _text(scene: Scene) -> str:
    return "\n".join(text.text for text in scene.texts)


def _reading_word(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.texts) != 1 or scene.texts[0].kind not in ("word", "number"):
        return None
    (text,) = scene.texts
    forms = [*_READ]
    if text.kind == "word":
        forms += ["Which word is written here?", "What word is this?", "Read the word."]
    else:
        forms += ["Which number is this?", "What number is this?", "Read the number."]
    return Question("reading_word", rng.choice(forms), text.text, spelt=True)


def _reading_line(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.texts) != 1 or scene.texts[0].kind != "line":
        return None
    forms = (*_READ, "Read the line.", "What does this line say?", "Transcribe the text.")
    return Question("reading_line", rng.choice(forms), scene.texts[0].text, spelt=True)


def _reading(scene: Scene, rng: random.Random) -> Question | None:
    """Whichever of the two fits: what is asked in evaluation only."""
    question = _reading_word(scene, rng) or _reading_line(scene, rng)
    return question and dataclasses.replace(question, task="reading")


def _reading_page(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.texts) < 2 or scene.kind not in KINDS:
        return None
    return Question("reading_page", rng.choice(_TRANSCRIBE), _text(scene), spelt=True)


def _reading_part(scene: Scene, rng: random.Random) -> Question | None:
    """One line of several, or one word of a line."""
    if not scene.texts or scene.kind not in KINDS or scene.figures:
        return None
    lines = [text.text for text in scene.texts]
    lot = rng.random()
    if len(lines) > 1 and lot < 0.6:
        number = rng.randrange(-1, min(len(lines), len(_ORDINALS)))
        which = "last" if number < 0 else _ORDINALS[number]
        form = rng.choice(
            ("What is the {} line?", "Read the {} line.", "What does the {} line say?")
        )
        return Question("reading_part", form.format(which), lines[number], spelt=True)
    if len(lines) > 1 and lot < 0.75:
        text = rng.choice(("How many lines are there?", "How many lines of text are there?"))
        return Question("reading_part", text, str(len(lines)))
    parts = _text(scene).split()
    if len(parts) < 2:
        return None
    which, part = rng.choice((("first", parts[0]), ("last", parts[-1]), ("second", parts[1])))
    form = rng.choice(("What is the {} word?", "Read the {} word.", "Which is the {} word?"))
    return Question("reading_part", form.format(which), part, spelt=True)


QUESTIONS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "reading": _reading,
    "reading_word": _reading_word,
    "reading_line": _reading_line,
    "reading_page": _reading_page,
    "reading_part": _reading_part,
}
WEIGHTS: dict[str, float] = {
    "reading_word": 6,
    "reading_line": 8,
    "reading_page": 8,
    "reading_part": 3,
}
