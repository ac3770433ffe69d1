"""Printed tables: two to five columns and rows below a header, ruled in the ways of word
processors, web pages, books and terminals. One way of ruling, tinted columns, is kept for testing.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.scenes.figures.colours import Rgb
from minicpmv.scenes.scene import Scene, Table
from minicpmv.scenes.text import fonts, records
from minicpmv.scenes.text.aligned import MAX_AREA, SLICE_AREA, AlignedSheet, ink_on, mix
from minicpmv.scenes.text.lettering import luminance, width_of

KINDS = {"table": 1.0}
MAX_RATIO = 2.5  # of the longer side to the shorter one
# How tables are ruled, with how often; the last one is for testing only.
_STYLES = {"grid": 5, "rows": 4, "book": 3, "plain": 2, "zebra": 3, "terminal": 2, "columns": 0}
_TEST_STYLES = {**_STYLES, "columns": 6}
_ACCENTS: tuple[Rgb, ...] = (
    (68, 114, 196),
    (47, 84, 150),
    (84, 130, 53),
    (192, 80, 40),
    (90, 90, 90),
    (30, 30, 30),
    (112, 48, 160),
    (0, 128, 128),
)
_PAPERS: tuple[Rgb, ...] = (
    (255, 255, 255),
    (255, 255, 255),
    (255, 255, 255),
    (250, 246, 232),
    (243, 244, 247),
    (230, 238, 248),
    (235, 245, 232),
    (250, 236, 240),
)
_DARK_PAPERS: tuple[Rgb, ...] = ((0, 0, 0), (18, 18, 18), (30, 34, 44), (12, 24, 60), (40, 42, 54))


@dataclass(frozen=True)
class _Plan:
    """Where a table goes: sizes in pixels."""

    size_px: int  # of the type
    widths: tuple[float, ...]  # of the columns
    line: float  # height of a row
    title: float  # height of the title above, 0 without one
    margin: float

    @property
    def height(self) -> float:
        return self.title + 2 * self.margin

    def size(self, rows: int) -> tuple[float, float]:
        """Height and width of the whole with `rows` rows, the header among them."""
        return self.height + rows * self.line, sum(self.widths) + 2 * self.margin


def paint(
    rng: random.Random, split: str, seed: int, kind: str, size: tuple[int, int] | None = None
) -> Scene:
    """Draw a table; `size` is (height, width) in pixels, None lets the contents decide."""
    styles = _STYLES if split == "train" else _TEST_STYLES
    style = rng.choices(list(styles), list(styles.values()))[0]
    face = fonts.choose(split, rng, monospaced=style == "terminal")
    head = _bold(face, split) if rng.random() < 0.4 else face
    for attempt in range(40):
        most = 5 if attempt < 12 else 3  # where the wide ones do not fit
        rows, cols = rng.randint(2, most), rng.randint(2, most)
        title, table = records.table(rng, split, rows, cols)
        title = title if rng.random() < 0.25 and style != "terminal" else ""
        plan = _plan(rng, table, title, (head, face), size, attempt)
        if plan is not None:
            break
    assert plan is not None, (split, seed, size)
    height, width = size or _canvas(rng, *plan.size(rows + 1))
    dark = style == "terminal" or rng.random() < 0.15
    paper = rng.choice(_DARK_PAPERS if dark else _PAPERS)
    sheet = AlignedSheet(height, width, paper, ink_on(paper, rng))
    spare = height - plan.size(rows + 1)[0], width - plan.size(rows + 1)[1]
    across, down = (0.5, 0.5) if rng.random() < 0.5 else (rng.random(), rng.random())
    top, left = plan.margin + down * spare[0], plan.margin + across * spare[1]
    _Printer(rng, sheet, style, (head, face), plan).print(table, title, top, left)
    background = "white" if sheet.paper == (255, 255, 255) else ("dark" if dark else "pale")
    return Scene(
        split,
        seed,
        sheet.image,
        background,
        texts=tuple(sheet.texts),
        kind=kind,
        table=table,
    )


def _bold(face: fonts.Face, split: str) -> fonts.Face:
    """A bold face of the same family, if there is one: what headings are often set in."""
    for faces in fonts.families(split).values():
        if face in faces:
            return next((other for other in faces if "Bold" in other.name), face)
    return face


def _plan(
    rng: random.Random,
    table: Table,
    title: str,
    faces: tuple[fonts.Face, fonts.Face],  # of the header and of the rest
    size: tuple[int, int] | None,
    attempt: int,
) -> _Plan | None:
    """Sizes that fit; None where the table is too large for the canvas."""
    small = rng.random() < 0.45  # one slice
    room = size or ((224, 300) if small else (700, 900))
    area = room[0] * room[1] if size else (SLICE_AREA if small else MAX_AREA)
    largest = rng.randint(11, 16) if small else rng.randint(13, 28)
    if size is not None:
        largest = round(rng.uniform(0.6, 1.0) * 30)
    airy = rng.random()
    columns = [*zip(table.header, *table.rows, strict=True)]
    rows = len(table.rows) + 1
    for size_px in range(largest, 10 if attempt < 30 else 6, -1):
        pad = size_px * (0.7 + 1.1 * airy)
        widths = tuple(_widest(column, faces, size_px) + pad for column in columns)
        plan = _Plan(
            size_px,
            widths,
            round(size_px * (1.45 + 0.9 * airy)),
            round(size_px * 2.1) if title else 0,
            max(4.0, size_px * (0.4 + airy)),
        )
        height, width = plan.size(rows)
        if title and width_of(faces[0], size_px, title) > sum(widths):
            return None
        if size is not None:
            if height <= size[0] and width <= size[1]:
                return plan
        elif max(height, width / MAX_RATIO) * max(width, height / MAX_RATIO) <= area:
            return plan
    return None


def _widest(column: Sequence[str], faces: tuple[fonts.Face, fonts.Face], size_px: int) -> float:
    """Width of the widest cell in pixels; the first one is in the header."""
    return max(
        width_of(faces[0], size_px, column[0]),
        *(width_of(faces[1], size_px, cell) for cell in column[1:]),
    )


def _canvas(rng: random.Random, height: float, width: float) -> tuple[int, int]:
    """The table's own size, or a little more around it within the limits."""
    height, width = max(height, width / MAX_RATIO), max(width, height / MAX_RATIO)
    limit = SLICE_AREA if height * width <= SLICE_AREA else MAX_AREA
    tall, wide = height, width
    if rng.random() < 0.5:
        tall, wide = tall * rng.uniform(1.0, 1.5), wide * rng.uniform(1.0, 1.3)
    if tall * wide > limit or max(tall / wide, wide / tall) > MAX_RATIO:
        tall, wide = height, width
    return max(1, int(tall)), max(1, int(wide))


class _Printer:
    """Prints one table in one style."""

    def __init__(
        self,
        rng: random.Random,
        sheet: AlignedSheet,
        style: str,
        faces: tuple[fonts.Face, fonts.Face],
        plan: _Plan,
    ) -> None:
        self.rng, self.sheet, self.style, self.faces, self.plan = rng, sheet, style, faces, plan
        self.ink = sheet.ink
        self.rule = mix(sheet.paper, self.ink, rng.choice((0.25, 0.5, 0.8, 1.0)))
        self.thick = 2 if plan.size_px > 18 and rng.random() < 0.5 else 1

    def print(self, table: Table, title: str, top: float, left: float) -> None:
        """Print with the upper left corner of the title, or else of the table, at (top, left)."""
        rng, plan, sheet = self.rng, self.plan, self.sheet
        right = left + sum(plan.widths)
        if title:
            x, anchor = (left, "l") if rng.random() < 0.5 else ((left + right) / 2, "m")
            middle = top + 0.4 * plan.title
            sheet.set(title, "title", middle, x, self.faces[0], plan.size_px, self.ink, anchor)
            top += plan.title
        ys = [round(top + i * plan.line) for i in range(len(table.rows) + 2)]
        xs = [round(left)]
        for j in range(len(plan.widths)):
            xs.append(round(left + sum(plan.widths[: j + 1])))
        head_ink = self._fill(ys, xs)
        self._rules(ys, xs)
        numeric = [
            all(cell[:1].isdigit() or cell[:1] in "$-" for cell in column)
            for column in zip(*table.rows, strict=True)
        ]
        words_at = rng.choice(("l", "l", "m"))
        numbers_at = rng.choice(("l", "r", "m")) if words_at == "l" else "m"
        widest = [
            _widest(column, self.faces, plan.size_px)
            for column in zip(table.header, *table.rows, strict=True)
        ]
        for i, row in enumerate((table.header, *table.rows)):
            middle = (ys[i] + ys[i + 1]) / 2
            for j, cell in enumerate(row):
                anchor = numbers_at if numeric[j] else words_at
                ends = xs[j], xs[j + 1]
                pad = (ends[1] - ends[0] - widest[j]) / 2
                x = {"l": ends[0] + pad, "m": (ends[0] + ends[1]) / 2, "r": ends[1] - pad}[anchor]
                ink, face = (head_ink, self.faces[0]) if i == 0 else (self.ink, self.faces[1])
                sheet.set(cell, "cell", middle, x, face, plan.size_px, ink, anchor)

    def _fill(self, ys: list[int], xs: list[int]) -> Rgb:
        """Tint what the style tints; the ink of the header comes back."""
        rng, draw, paper = self.rng, self.sheet.draw, self.sheet.paper
        tint = mix(paper, rng.choice((self.ink, rng.choice(_ACCENTS))), rng.uniform(0.08, 0.2))
        if abs(luminance(tint) - luminance(self.ink)) < 85:
            tint = mix(paper, self.ink, 0.06)
        if self.style == "zebra":
            for i in range(1 + rng.randint(0, 1), len(ys) - 1, 2):
                draw.rectangle((xs[0], ys[i], xs[-1], ys[i + 1] - 1), fill=tint)
        if self.style == "columns":
            for j in range(rng.randint(0, 1), len(xs) - 1, 2):
                draw.rectangle((xs[j], ys[0], xs[j + 1] - 1, ys[-1]), fill=tint)
        if self.style in ("terminal", "book", "columns") or rng.random() < 0.4:
            accent = rng.choice(_ACCENTS)
            visible = abs(luminance(accent) - luminance(paper)) > 100
            return accent if visible and rng.random() < 0.2 else self.ink
        head = rng.choice((tint, *_ACCENTS[:5]))
        draw.rectangle((xs[0], ys[0], xs[-1], ys[1] - 1), fill=head)
        if abs(luminance(head) - luminance(self.ink)) > 85:
            return self.ink
        return (255, 255, 255) if luminance(head) < 128 else (0, 0, 0)

    def _rules(self, ys: list[int], xs: list[int]) -> None:
        rng, draw, style = self.rng, self.sheet.draw, self.style
        if style == "grid":
            for y in ys:
                self._line(y, xs[0], y, xs[-1])
            for x in xs:
                self._line(ys[0], x, ys[-1], x)
        elif style == "rows":
            for y in ys[rng.randint(0, 1) : len(ys) - rng.randint(0, 1)]:
                self._line(y, xs[0], y, xs[-1])
        elif style == "book":
            for y in (ys[0], ys[1], ys[-1]):
                self._line(y, xs[0], y, xs[-1])
        elif style in ("plain", "zebra", "columns"):
            if rng.random() < 0.6:
                self._line(ys[1], xs[0], ys[1], xs[-1])
            if style == "zebra" and rng.random() < 0.5:
                draw.rectangle((xs[0], ys[0], xs[-1], ys[-1]), outline=self.rule)
        elif style == "terminal":  # +----+----+ and | between the cells, as consoles print them
            dash = max(2, self.plan.size_px // 3)
            flat = (ys[1],) if rng.random() < 0.4 else (ys[0], ys[1], ys[-1])
            for y in flat:
                for x in range(xs[0], xs[-1], 2 * dash):
                    self._line(y, x, y, min(x + dash, xs[-1]))
            for x in xs if len(flat) > 1 else xs[1:-1]:
                self._line(ys[0] + 2, x, ys[-1] - 2, x)

    def _line(self, top: float, left: float, bottom: float, right: float) -> None:
        self.sheet.draw.line((left, top, right, bottom), fill=self.rule, width=self.thick)
