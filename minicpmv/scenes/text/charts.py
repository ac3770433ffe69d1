"""Bar and line charts of one series, as plotting programs, spreadsheets, web pages and terminals
draw them.

A value that is not printed beside its bar or point lies on a tick of the axis or half-way between
two, so that it can be read off. One look, a journal's with its axis on the right, is kept for
testing.
"""

import random
from dataclasses import replace

from PIL import Image, ImageDraw

from minicpmv.scenes.figures import colours
from minicpmv.scenes.figures.colours import Rgb
from minicpmv.scenes.scene import Box, Chart, Glyph, Lettering, Scene
from minicpmv.scenes.text import fonts
from minicpmv.scenes.text.aligned import MAX_AREA, SLICE_AREA, AlignedSheet, ink_on, mix
from minicpmv.scenes.text.chart_labels import COUNTED, UNITS, sample_labels, sample_title
from minicpmv.scenes.text.chart_looks import LOOKS, TEST_LOOKS, WHITE, Look
from minicpmv.scenes.text.lettering import luminance, width_of

KINDS = {"chart": 1.0}
STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000)  # between two ticks of the axis
MAX_LABELS = 7
_SMOOTH = 3  # how much larger slanting lines are drawn before they are shrunk


def paint(
    rng: random.Random, split: str, seed: int, kind: str, size: tuple[int, int] | None = None
) -> Scene:
    """Draw a chart; `size` is (height, width) in pixels, None draws lots."""
    looks = LOOKS if split == "train" else TEST_LOOKS
    look = looks[rng.choice(list(looks))]
    face = _face(rng, split, look)
    # A wide border, as some programs leave it: fractions of the height and width on either side.
    border = [rng.uniform(0.02, 0.12) if rng.random() < 0.3 else 0.0] * 4
    if border[0] and rng.random() < 0.5:
        border = [rng.uniform(0.0, 0.12) for _ in border]
    for attempt in range(60):
        height, width = size or _sample_size(rng)
        size_px = _type_size(rng, height, width)
        if attempt > 10:
            border = [0.0] * 4
        offset = round(border[0] * height), round(border[1] * width)
        inner = (
            round(height * (1 - border[2])) - offset[0],
            round(width * (1 - border[3])) - offset[1],
        )
        if attempt > 20:
            size_px = max(7, size_px - (attempt - 20) // 4)
        painter = _Painter(rng, split, look, face, size_px, *inner)
        if painter.fits():
            break
    else:
        raise ValueError(f"A chart does not fit in {height} x {width} pixels.")
    scene = painter.paint(seed, kind)
    if inner == (height, width):
        return scene
    return _framed(scene, look.paper, offset, height, width)


def _framed(scene: Scene, paper: Rgb, offset: tuple[int, int], height: int, width: int) -> Scene:
    """The scene with its upper left corner at `offset`, (y, x) in pixels, of a larger sheet."""
    image = Image.new("RGB", (width, height), paper)
    image.paste(scene.image, (offset[1], offset[0]))

    def moved(box: Box) -> Box:
        top, left, bottom, right = box
        return (
            (offset[0] + top * scene.image.height) / height,
            (offset[1] + left * scene.image.width) / width,
            (offset[0] + bottom * scene.image.height) / height,
            (offset[1] + right * scene.image.width) / width,
        )

    texts = tuple(
        replace(
            text,
            box=moved(text.box),
            glyphs=tuple(Glyph(glyph.character, moved(glyph.box)) for glyph in text.glyphs),
        )
        for text in scene.texts
    )
    return replace(scene, image=image, texts=texts)


def _face(rng: random.Random, split: str, look: Look) -> fonts.Face:
    face = fonts.choose(split, rng, monospaced=look.is_terminal and rng.random() < 0.8)
    if look.uses_dejavu and rng.random() < 0.6:
        wanted = [face for face in fonts.faces(split) if face.name == "DejaVuSans.ttf"]
        return wanted[0] if wanted else face
    return face


def _sample_size(rng: random.Random) -> tuple[int, int]:
    """Height and width in pixels: 45 % of the pictures are one slice."""
    lot = rng.random()
    if lot < 0.45:
        area = SLICE_AREA * rng.uniform(0.8, 1.0)
    elif lot < 0.85:
        area = SLICE_AREA * rng.uniform(1.3, 4.0)
    else:
        area = rng.uniform(4 * SLICE_AREA, MAX_AREA)
    ratio = rng.uniform(0.5, 1.1)  # height to width
    return int((area * ratio) ** 0.5), int((area / ratio) ** 0.5)


def _type_size(rng: random.Random, height: int, width: int) -> int:
    side = (height * width) ** 0.5
    if side <= 224:
        return rng.randint(11, 13)
    return round(min(28, max(13, side / rng.uniform(17, 26))))


class _Painter:
    """One chart: its numbers, then its layout, then its ink."""

    def __init__(
        self,
        rng: random.Random,
        split: str,
        look: Look,
        face: fonts.Face,
        size_px: int,
        height: int,
        width: int,
    ) -> None:
        self.rng, self.split, self.look, self.face, self.size_px = rng, split, look, face, size_px
        self.height, self.width = height, width
        self.form = "across" if look.is_terminal else rng.choice(("up", "up", "across", "line"))
        self.sideways = self.form == "across"
        number = rng.randint(3, MAX_LABELS)
        self.labels = sample_labels(rng, split, number)
        self.title = sample_title(rng, split) if rng.random() < 0.85 else ""
        self.unit = rng.choice((*UNITS, *COUNTED)) if rng.random() < 0.5 else ""
        if look.is_terminal:
            self.unit = ""
        self.upright_unit = not self.sideways and rng.random() < 0.5
        self.printed = look.is_terminal or rng.random() < 0.35
        # Printed values need no axis; where there is none, they have to be printed.
        self.has_axis = not (self.printed and (look.is_terminal or rng.random() < 0.4))
        # What stands before and after every number; thousands are set apart now and then.
        self.before, self.after = "", "%" if self.unit == "%" and rng.random() < 0.7 else ""
        if not self.unit and rng.random() < 0.1:
            self.before, self.after = rng.choice((("$", ""), ("", "%")))
        self.grouped = rng.random() < 0.3
        self._sample_values(number)
        self._lay_out()

    def _sample_values(self, number: int) -> None:
        rng = self.rng
        self.step = float(rng.choice(STEPS))
        spans = rng.randint(3, 6)
        first = 0
        if self.form == "line" and rng.random() < 0.3:  # an axis that does not begin at nothing
            first = rng.randint(1, 8)
        self.low, self.high = first * self.step, (first + spans) * self.step
        halves = range(1 if first == 0 else 0, 2 * spans + 1)
        places = [rng.choice(halves) for _ in range(number)]
        if max(places) < spans:  # the tallest fills at least half of the axis
            places[rng.randrange(number)] = rng.randint(spans, 2 * spans)
        if len(set(places)) == 1:
            places[0] += 1 if places[0] < 2 * spans else -1
        values = [self.low + place * self.step / 2 for place in places]
        if self.printed and rng.random() < 0.7:  # anything goes, where it is written down
            digits = 1 if self.step <= 2 else 0
            values = [
                round(min(self.high, max(self.low + self.step / 2, value + move)), digits)
                for value in values
                for move in [rng.uniform(-0.45, 0.45) * self.step / 2]
            ]
        self.values = tuple(float(value) for value in values)
        # Many programs leave a little air above the last tick.
        self.air = rng.choice((0.0, 0.0, rng.uniform(0.02, 0.1)))

    def _lay_out(self) -> None:
        """The box of the plot inside the picture, in pixels: top, left, bottom, right."""
        type_px, look = self.size_px, self.look
        self.line = 1.35 * type_px
        ticks = [self._written(tick) for tick in self._ticks()]
        tick_width = max(self._width(tick) for tick in ticks)
        label_width = max(self._width(label) for label in self.labels)
        value_width = max(self._width(self._written(value)) for value in self.values)
        gap = 0.5 * type_px + max(0, look.ticks) * type_px / 10
        top = 0.5 * type_px
        if self.title:
            top += 1.6 * type_px
        if self.unit and not self.upright_unit and not self.sideways:
            top += self.line
        bottom = self.height - 0.4 * type_px
        left, right = 0.6 * type_px, self.width - 0.8 * type_px
        if self.sideways:
            left += label_width + gap
            if self.has_axis:
                bottom -= self.line + gap * 0.6
                right -= tick_width / 2
            if self.unit and self.has_axis:
                bottom -= self.line
        else:
            bottom -= self.line + gap * 0.6
            if self.unit and self.upright_unit:
                left += self.line
            if self.has_axis and look.right_axis:
                right -= tick_width + gap
            elif self.has_axis:
                left += tick_width + gap
            if self.has_axis:
                top += 0.5 * type_px
        self.gap = gap
        self.top, self.left = round(top), round(left)
        self.bottom, self.right = round(bottom), round(right)
        self.slot = (self.bottom - self.top if self.sideways else self.right - self.left) / len(
            self.labels
        )
        needed = self.line if self.sideways else label_width + 0.5 * type_px
        if self.printed and not self.sideways:
            needed = max(needed, value_width + 0.3 * type_px)
        length = self.right - self.left if self.sideways else self.bottom - self.top
        if self.printed and not self.sideways:  # room for the number above the tallest
            self.air = max(self.air, 1.5 * self.line / max(1.0, length - 1.5 * self.line))
        elif self.printed:  # or beside the longest
            beside = value_width + 0.8 * type_px
            self.air = max(self.air, beside / max(1.0, length - beside))
            length -= round(beside)
        self.ceiling = self.high + self.air * (self.high - self.low)
        self.floor = self.low
        if self.printed and self.form == "line":  # and below the deepest valley
            self.floor -= 1.7 * self.line / max(1.0, length) * (self.ceiling - self.low)
        spans = len(ticks) - 1
        roomy = self.slot >= needed and length >= max(5 * type_px, 9 * spans)
        if self.has_axis:  # the numbers of the axis stay apart
            apart = tick_width + 0.5 * type_px if self.sideways else 1.1 * type_px
            roomy = (
                roomy
                and length * (self.high - self.low) / (self.ceiling - self.floor) / spans >= apart
            )
        header = self._width(self.title) <= self.width - type_px if self.title else True
        if self.unit and self.upright_unit:
            header = header and self._width(self.unit) <= self.bottom - self.top
        self._fits = roomy and header

    def fits(self) -> bool:
        """Whether all labels have room."""
        return self._fits

    def _ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.step) + 1
        return [self.low + i * self.step for i in range(count)]

    def _written(self, value: float) -> str:
        return f"{self.before}{value:{',' if self.grouped else ''}g}{self.after}"

    def _width(self, text: str) -> float:
        return width_of(self.face, self.size_px, text)

    def _along(self, value: float) -> int:
        """The pixel of a value on its axis."""
        share = (value - self.floor) / (self.ceiling - self.floor)
        if self.sideways:
            return round(self.left + share * (self.right - self.left))
        return round(self.bottom - share * (self.bottom - self.top))

    def paint(self, seed: int, kind: str) -> Scene:
        rng, look = self.rng, self.look
        self.ink = ink_on(look.paper, rng)
        if rng.random() < 0.7:  # programs write in black, or in white on dark
            shade = rng.choice((0, 0, 40))
            self.ink = (shade, shade, shade) if luminance(look.paper) > 128 else (242, 242, 242)
        sheet = self.sheet = AlignedSheet(self.height, self.width, look.paper, self.ink)
        if look.panel:
            sheet.draw.rectangle((self.left, self.top, self.right, self.bottom), fill=look.panel)
        self._print_head()
        if self.has_axis:
            self._draw_axis()
        if self.form == "line":
            self._draw_line()
        else:
            self._draw_bars()
        self._draw_frame()
        self._print_labels()
        texts = sorted(sheet.texts, key=self._reading_order)
        chart = Chart(
            "line" if self.form == "line" else "bar",
            self.title,
            self.unit if self.unit and self._prints_unit() else "",
            self.labels,
            self.values,
        )
        background = "white" if look.paper == WHITE else "pale"
        if sum(look.paper) < 300:
            background = "dark"
        return Scene(
            self.split, seed, sheet.image, background, texts=tuple(texts), kind=kind, chart=chart
        )

    def _reading_order(self, text: Lettering) -> tuple[int, float]:
        top, left, bottom, _ = text.box
        return int((top + bottom) / 2 * self.height / self.line), left

    def _prints_unit(self) -> bool:
        return not self.sideways or self.has_axis

    def _letter(self, text: str, kind: str, middle: float, x: float, anchor: str) -> None:
        self.sheet.set(text, kind, middle, x, self.face, self.size_px, self.ink, anchor)

    def _print_head(self) -> None:
        look, type_px = self.look, self.size_px
        middle = 1.05 * type_px
        if look.right_axis:
            self.sheet.draw.rectangle((0, 0, 2 * type_px, 0.3 * type_px), fill=(220, 30, 30))
        if self.title:
            centred = (self.left + self.right) / 2
            half = self._width(self.title) / 2
            if look.title_at == "l" or self.rng.random() < 0.12:
                self._letter(self.title, "title", middle, 0.5 * type_px, "l")
            else:
                x = min(max(centred, half + 2), self.width - half - 2)
                self._letter(self.title, "title", middle, x, "m")
            middle += 1.5 * type_px
        if not self.unit or not self._prints_unit():
            return
        if self.sideways:
            x = (self.left + self.right) / 2
            self._letter(self.unit, "label", self.height - 0.85 * type_px, x, "m")
        elif self.upright_unit:
            y = (self.top + self.bottom) / 2
            self.sheet.set_upwards(self.unit, "label", y, 0.85 * type_px, self.face, type_px)
        else:
            self._letter(self.unit, "label", middle, 0.5 * type_px, "l")

    def _draw_axis(self) -> None:
        draw, look, type_px = self.sheet.draw, self.look, self.size_px
        dashed = self.rng.random() < 0.3
        reach = look.ticks * type_px / 10
        for tick in self._ticks():
            at, text = self._along(tick), self._written(tick)
            if look.grid and not dashed:
                ends = (
                    (at, self.top, at, self.bottom)
                    if self.sideways
                    else (self.left, at, self.right, at)
                )
                draw.line(ends, fill=look.grid)
            elif look.grid:
                self._dash(at)
            if self.sideways:
                draw.line((at, self.bottom, at, self.bottom + reach), fill=self.ink)
                middle = self.bottom + 0.75 * self.gap + 0.45 * type_px
                self._letter(text, "number", middle, at, "m")
            elif look.right_axis:
                self._letter(text, "number", at, self.width - 0.6 * type_px, "r")
            else:
                draw.line((self.left - reach, at, self.left, at), fill=self.ink)
                self._letter(text, "number", at, self.left - self.gap, "r")

    def _dash(self, at: int) -> None:
        start, end = (self.top, self.bottom) if self.sideways else (self.left, self.right)
        assert self.look.grid is not None
        for i in range(start, end, 6):
            j = min(i + 3, end)
            ends = (at, i, at, j) if self.sideways else (i, at, j, at)
            self.sheet.draw.line(ends, fill=self.look.grid)

    def _draw_frame(self) -> None:
        draw, look = self.sheet.draw, self.look
        if look.frame == "box":
            draw.rectangle((self.left, self.top, self.right, self.bottom), outline=self.ink)
        if look.frame == "corner":
            draw.line((self.left, self.top, self.left, self.bottom), fill=self.ink)
        if look.frame == "corner" or (look.frame == "base" and not self.sideways):
            draw.line((self.left, self.bottom, self.right, self.bottom), fill=self.ink)
        elif look.frame == "base":
            draw.line((self.left, self.top, self.left, self.bottom), fill=self.ink)

    def _inks(self) -> list[Rgb]:
        """One colour per label: mostly the same for all."""
        rng, ground = self.rng, self.look.panel or self.look.paper
        inks = [
            ink for ink in self.look.inks if colours.distance(ink, ground) > colours.MIN_DISTANCE
        ] or [self.ink]
        if rng.random() < 0.2:  # a colour of someone's own
            own = colours.sample_rgb(rng.choice(list(colours.COLOURS)), rng)
            if colours.distance(own, ground) > 1.3 * colours.MIN_DISTANCE:
                inks = [own]
        if self.form != "line" and len(inks) > 2 and rng.random() < 0.25:
            return [inks[i % len(inks)] for i in range(len(self.labels))]
        first = inks[0] if rng.random() < 0.4 else rng.choice(inks)
        return [first] * len(self.labels)

    def _middle(self, i: int) -> float:
        """Where the i-th label stands, in pixels."""
        return (self.top if self.sideways else self.left) + (i + 0.5) * self.slot

    def _draw_bars(self) -> None:
        rng, draw = self.rng, self.sheet.draw
        half = self.slot * rng.uniform(0.5, 0.85) / 2
        rim = self.ink if rng.random() < 0.25 else None
        for i, ink in enumerate(self._inks()):
            middle, end = self._middle(i), self._along(self.values[i])
            near, far = round(middle - half), round(middle + half)
            if self.look.is_terminal:
                self._draw_blocks(near, far, end, ink)
            elif self.sideways:
                draw.rectangle((self.left, near, end, far), fill=ink, outline=rim)
            else:
                draw.rectangle((near, end, far, self.bottom), fill=ink, outline=rim)
            if not self.printed:
                continue
            text = self._written(self.values[i])
            if self.sideways:
                self._letter(text, "number", middle, end + 0.4 * self.size_px, "l")
            else:
                self._letter(text, "number", end - 0.75 * self.size_px, middle, "m")

    def _draw_blocks(self, near: int, far: int, end: int, ink: Rgb) -> None:
        """A row of blocks, as consoles print them."""
        cell = max(4, round(0.6 * self.size_px))
        for x in range(self.left, end, cell):
            right = min(x + cell - (2 if self.size_px % 2 else 1), end)
            if right > x:
                self.sheet.draw.rectangle((x, near, right, far), fill=ink)

    def _draw_line(self) -> None:
        rng, type_px = self.rng, self.size_px
        ink = self._inks()[0]
        thick = rng.choice((1, 1.5, 2, 3)) * max(1.0, type_px / 16)
        marker = rng.choice(("circle", "circle", "square", "diamond", ""))
        radius = max(2.0, rng.uniform(0.18, 0.32) * type_px, thick * 1.3)
        points = [
            (self._middle(i), float(self._along(value))) for i, value in enumerate(self.values)
        ]
        edge = round(radius) + 2
        left, top = self.left - edge, self.top - edge
        size = self.right - self.left + 2 * edge, self.bottom - self.top + 2 * edge
        if rng.random() < 0.15:  # tinted below the line, as web pages have it
            area = [*points, (points[-1][0], self.bottom), (points[0][0], self.bottom)]
            ground = self.look.panel or self.look.paper
            self.sheet.draw.polygon(area, fill=mix(ground, ink, rng.uniform(0.15, 0.35)))
        mask = Image.new("L", (size[0] * _SMOOTH, size[1] * _SMOOTH))
        draw = ImageDraw.Draw(mask)
        fine = [((x - left) * _SMOOTH, (y - top) * _SMOOTH) for x, y in points]
        draw.line(fine, fill=255, width=round(thick * _SMOOTH), joint="curve")
        r = radius * _SMOOTH
        for x, y in fine:
            if marker == "circle":
                draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
            elif marker == "square":
                draw.rectangle((x - r, y - r, x + r, y + r), fill=255)
            elif marker == "diamond":
                draw.polygon([(x - r, y), (x, y - r), (x + r, y), (x, y + r)], fill=255)
        self.sheet.image.paste(ink, (left, top), mask.reduce(_SMOOTH))
        if self.printed:
            for i, (x, y) in enumerate(points):
                # Below a valley, above all others, off the line.
                around = [points[j][1] for j in (i - 1, i + 1) if 0 <= j < len(points)]
                below = all(other <= y for other in around) and self.bottom - y > 1.3 * type_px
                away = (radius + 0.6 * type_px) * (1 if below else -1)
                self._letter(self._written(self.values[i]), "number", y + away, x, "m")

    def _print_labels(self) -> None:
        for i, label in enumerate(self.labels):
            if self.sideways:
                x = self.left - 0.5 * self.size_px
                self._letter(label, "label", self._middle(i), x, "r")
            else:
                middle = self.bottom + 0.75 * self.gap + 0.45 * self.size_px
                self._letter(label, "label", middle, self._middle(i), "m")
