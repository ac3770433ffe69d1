"""Typesetting: one line large on a canvas, or rows on a sheet made to measure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from minicpmv.scenes.figures import colours
from minicpmv.scenes.figures.colours import Rgb
from minicpmv.scenes.text import fonts
from minicpmv.scenes.text.lettering import (
    MIN_CONTRAST,
    Sheet,
    accent,
    ink_and_paper,
    largest_size,
    luminance,
    width_of,
)

SLICE_PX = 224  # what the model sees at once, squared
MAX_SLICES = 9
MAX_RATIO = 2.4  # of the sides of a sheet
MAX_CROP_RATIO = 12  # of the sides of a line cut out tightly
MIN_GLYPH_PX = 11
PAGE_SIZES = (13, 30)  # font sizes of body text, in pixels
Inks = tuple[Rgb, Rgb]  # ink and paper


@dataclass(frozen=True)
class Row:
    """One printed line of a layout. Lengths are in ems of the body size."""

    text: str
    face: fonts.Face
    scale: float = 1.0
    gap: float = 0.0  # free room above
    indent: float = 0.0
    align: str = "left"  # "left", "centre" or "right"
    second: str = ""  # a second piece of the line
    column: float | None = None  # where that begins; None for at the right margin
    accent: bool = False  # in the second colour
    mark: str = ""  # on a "band" or "button" of the second colour, in a "box", or "underlined"
    rule: str = ""  # a line drawn "above" or "below" the row, or below its "second" piece


def print_single(
    rng: random.Random, text: str, text_kind: str, split: str, size: tuple[int, int] | None
) -> tuple[Sheet, str]:
    """Print one line large on a canvas, or cut it out tightly.

    Returns:
        The sheet, and the name of the paper's colour, "" where it has none.
    """
    face = fonts.choose(split, rng)
    ink, paper = ink_and_paper(rng)
    colour = background = ""
    if rng.random() < 0.4:
        colour, ink, background, paper = _named_inks(rng)
    is_crop = size is None and rng.random() < 0.5
    if size is None:
        size = _crop(rng, face, text) if is_crop else _canvas(rng, face, text)
    height, width = size
    fit = largest_size(face, text, 0.8 * height, 0.94 * width - 2)
    share = rng.uniform(0.9, 1.0) if is_crop else rng.uniform(0.45, 1.0)
    size_px = min(fit, max(round(share * fit), _legible_px(size)))
    sheet = Sheet(height, width, paper, ink)
    if size_px >= 6:  # else there is no room for it
        box = fonts.load(face, size_px).getbbox(text, anchor="ls", stroke_width=2 * face.stroke)
        spare_x = max(0.0, width - 2 - (box[2] - box[0]))
        spare_y = max(0.0, height - 2 - (box[3] - box[1]))
        left = 1 + spare_x * rng.random() - box[0]
        baseline = 1 + spare_y * rng.random() - box[1]
        sheet.write(text, face, size_px, left, baseline, kind=text_kind, colour=colour)
    return sheet, background


def _named_inks(rng: random.Random) -> tuple[str, Rgb, str, Rgb]:
    """Colour and shade of the ink, then of the paper, both with names."""
    background = rng.choice(colours.PLAIN_BACKGROUNDS)
    paper = colours.sample_rgb(background, rng)
    others = [name for name in colours.COLOURS if name != background]
    for colour in rng.sample(others, len(others)):
        ink = colours.sample_rgb(colour, rng)
        if abs(luminance(ink) - luminance(paper)) > MIN_CONTRAST:
            break
    return colour, ink, background, paper


def _crop(rng: random.Random, face: fonts.Face, text: str) -> tuple[int, int]:
    """Height and width of a crop around the text, at most one slice in area."""
    size_px = rng.randint(16, 64)
    width = width_of(face, size_px, text) + size_px * rng.uniform(0.2, 1.6)
    height = size_px * rng.uniform(1.25, 2.2)
    height, width = max(height, width / MAX_CROP_RATIO), max(width, height / 2)
    shrink = min(1.0, SLICE_PX / (width * height) ** 0.5)
    return max(24, int(height * shrink)), max(24, int(width * shrink))


def _canvas(rng: random.Random, face: fonts.Face, text: str) -> tuple[int, int]:
    """Height and width of a canvas, mostly one slice, on which the text is legible."""
    for _attempt in range(20):
        lot = rng.random()
        side = rng.uniform(130, SLICE_PX) if lot < 0.88 else rng.uniform(SLICE_PX, 2 * SLICE_PX)
        ratio = rng.uniform(0.5, 3.0)
        size = round(side / ratio**0.5), round(side * ratio**0.5)
        if lot < 0.3:
            size = SLICE_PX, SLICE_PX
        if largest_size(face, text, 0.8 * size[0], 0.94 * size[1] - 2) >= _legible_px(size):
            return size
    return SLICE_PX // 2, 2 * SLICE_PX


def _legible_px(size: tuple[int, int]) -> int:
    """The least font size on a picture that is seen as one slice."""
    return round(1.2 * MIN_GLYPH_PX * max(1.0, (size[0] * size[1]) ** 0.5 / SLICE_PX))


def print_rows(
    rng: random.Random,
    rows: Sequence[Row],
    size: tuple[int, int] | None,
    *,
    inks: Inks | None = None,
    sizes: tuple[int, int] = PAGE_SIZES,
) -> Sheet:
    """Print rows on a sheet made to measure, or as large as `size`, (height, width), allows.

    Args:
        inks: ink and paper; None draws lots.
        sizes: least and greatest font size of the body in pixels.
    """
    ink, paper = inks or ink_and_paper(rng)
    second_ink = accent(rng, paper, ink)
    spacing = rng.uniform(1.15, 1.7)
    least, greatest = sizes
    size_px = round(least * (greatest / least) ** rng.random())
    margins = [rng.uniform(0.5, 2.0) for _ in range(4)]  # top, bottom, left, right, in ems
    blank = rng.uniform(1.0, 1.4) if rng.random() < 0.3 else 1.0  # paper without print
    while True:
        text_height, text_width = _extent(rows, size_px, spacing)
        height = text_height + (margins[0] + margins[1]) * size_px
        width = text_width + (margins[2] + margins[3]) * size_px
        if size is not None:
            if size_px <= 5 or (height <= size[0] and width <= size[1]):
                break
        else:
            height *= blank
            height, width = max(height, width / MAX_RATIO), max(width, height / MAX_RATIO)
            if size_px <= MIN_GLYPH_PX or height * width < MAX_SLICES * SLICE_PX**2:
                break
        size_px -= 1
    size = size or (round(height), round(width))
    sheet = Sheet(size[0], size[1], paper, ink)
    top, left = margins[0] * size_px, margins[2] * size_px
    spare_y = max(0.0, sheet.height - text_height - (margins[0] + margins[1]) * size_px)
    spare_x = max(0.0, sheet.width - text_width - (margins[2] + margins[3]) * size_px)
    top += spare_y * rng.choice((0.0, rng.random()))
    left += spare_x * rng.choice((0.0, 0.0, 0.5, rng.random()))
    right = left + text_width
    y = top
    for row in rows:
        row_px = max(1, round(size_px * row.scale))
        y += row.gap * size_px + spacing * row_px
        baseline = y - (0.22 + (spacing - 1) / 2) * row_px
        if baseline + 0.25 * row_px > sheet.height or right > sheet.width + 1:
            continue  # the given size is too small for it
        wide = width_of(row.face, row_px, row.text)
        x = left + row.indent * size_px
        if row.align == "centre":
            x = (left + right - wide) / 2
        elif row.align == "right":
            x = right - wide
        pieces = [(row.text, x)]
        if row.second:
            if row.column is None:
                start = right - width_of(row.face, row_px, row.second)
            else:
                start = left + row.column * size_px
            pieces.append((row.second, start))
        rgb = second_ink if row.accent else ink
        if row.mark:
            if row.mark in ("band", "button"):
                rgb = paper
            _mark(sheet, row.mark, second_ink, (baseline, x, x + wide), row_px)
        sheet.write_pieces(pieces, row.face, row_px, baseline, rgb=rgb)
        if row.rule:
            above = row.rule == "above"
            level = baseline - 1.05 * row_px if above else baseline + 0.32 * row_px
            start = pieces[-1][1] - 0.3 * size_px if row.rule == "second" else left
            level, pen = round(level), max(1, size_px // 16)
            sheet.draw.line([(round(start), level), (round(right), level)], fill=ink, width=pen)
    return sheet


def _mark(
    sheet: Sheet, mark: str, rgb: Rgb, place: tuple[float, float, float], size_px: int
) -> None:
    """Draw what lies behind or under the text at `place`: base line, left and right end."""
    baseline, left, right = (round(part) for part in place)
    top, bottom = round(baseline - 0.95 * size_px), round(baseline + 0.38 * size_px)
    pen = max(1, size_px // 14)
    if mark == "band":
        sheet.draw.rectangle((0, top, sheet.width, bottom), fill=rgb)
    elif mark == "underlined":
        level = baseline + max(1, size_px // 10)
        sheet.draw.line((left, level, right, level), fill=sheet.ink, width=pen)
    else:
        corners = left - size_px // 2, top, right + size_px // 2, bottom
        if mark == "button":
            sheet.draw.rounded_rectangle(corners, size_px // 4, fill=rgb)
        else:
            sheet.draw.rectangle(corners, outline=sheet.ink, width=pen)


def _extent(rows: Sequence[Row], size_px: int, spacing: float) -> tuple[float, float]:
    """Height and width of the rows in pixels, without margins."""
    height = width = 0.0
    for row in rows:
        row_px = max(1, round(size_px * row.scale))
        needed = row.indent * size_px + width_of(row.face, row_px, row.text)
        if row.second:
            second = width_of(row.face, row_px, row.second)
            if row.column is None:
                needed += 1.5 * size_px + second
            else:
                needed = max(needed, row.column * size_px + second)
        if row.mark in ("box", "button"):
            needed += 0.6 * row_px
        width = max(width, needed)
        height += row.gap * size_px + spacing * row_px
    return height, width
