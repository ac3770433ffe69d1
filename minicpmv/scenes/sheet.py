"""A canvas of plain colour that remembers what is printed on it."""

import functools
import random

from PIL import Image, ImageDraw, ImageFont

from minicpmv.scenes import fonts
from minicpmv.scenes.colours import Rgb
from minicpmv.scenes.scene import Glyph, Lettering

SLICE_AREA = 224 * 224  # pixels that the model sees as one slice
MAX_AREA = 9 * SLICE_AREA
MIN_CONTRAST = 70.0  # least difference in luminance between ink and paper, of 255


def luminance(rgb: Rgb) -> float:
    """How bright a colour looks, 0 to 255 (ITU-R BT.601)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """A colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@functools.lru_cache(maxsize=4096)
def extents(face: fonts.Face, size_px: int) -> tuple[float, float, float]:
    """Height of a capital, ascender and descender, in pixels from the base line."""
    font = fonts.load(face, size_px)
    capital = -font.getbbox("H", anchor="ls")[1]
    _, top, _, bottom = font.getbbox("bdlpqgy,|", anchor="ls")
    return capital, -top, bottom


def width_of(text: str, face: fonts.Face, size_px: int) -> float:
    """Width of one printed line in pixels."""
    return fonts.load(face, size_px).getlength(text)


class Sheet:
    """An image under way, `height` x `width` pixels, and the letterings printed on it so far."""

    def __init__(self, height: int, width: int, paper: Rgb) -> None:
        self.height, self.width, self.paper = height, width, paper
        self.image = Image.new("RGB", (width, height), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.texts: list[Lettering] = []

    def letter(
        self,
        text: str,
        kind: str,
        middle: float,
        x: float,
        face: fonts.Face,
        size_px: int,
        ink: Rgb,
        anchor: str = "l",
    ) -> None:
        """Print one line. Capitals are centred on the row `middle`; `anchor` says whether `x` is
        its left end, middle or right end ("l", "m", "r").
        """
        font = fonts.load(face, size_px)
        edges = _edges(font, text)
        left = round(x - edges[-1] * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor])
        capital, _, _ = extents(face, size_px)
        base = round(middle + capital / 2)
        stroke = face.stroke * max(1, size_px // 32)
        self.draw.text((left, base), text, fill=ink, font=font, anchor="ls", stroke_width=stroke)
        _, top, _, bottom = font.getbbox(text, anchor="ls", stroke_width=stroke)
        self._note(text, kind, base + top, base + bottom, [left + edge for edge in edges])

    def letter_upwards(
        self,
        text: str,
        kind: str,
        middle: float,
        x: float,
        face: fonts.Face,
        size_px: int,
        ink: Rgb,
    ) -> None:
        """Print one line turned a quarter to the left, around the point (`middle`, `x`)."""
        font = fonts.load(face, size_px)
        edges = _edges(font, text)
        _, top, _, bottom = font.getbbox(text, anchor="ls")
        mask = Image.new("L", (int(edges[-1]) + 2, int(bottom - top) + 2))
        ImageDraw.Draw(mask).text((0, -top), text, fill=255, font=font, anchor="ls")
        mask = mask.transpose(Image.Transpose.ROTATE_90)
        left, start = round(x - mask.width / 2), round(middle + mask.height / 2)
        self.image.paste(ink, (left, start - mask.height), mask)
        glyphs = [
            (character, (start - edges[i + 1], left, start - edges[i], left + mask.width))
            for i, character in enumerate(text)
            if character != " "
        ]
        self._add(text, kind, (start - edges[-1], left, start, left + mask.width), glyphs)

    def _note(self, text: str, kind: str, top: float, bottom: float, edges: list[float]) -> None:
        glyphs = [
            (character, (top, edges[i], bottom, edges[i + 1]))
            for i, character in enumerate(text)
            if character != " "
        ]
        self._add(text, kind, (top, edges[0], bottom, edges[-1]), glyphs)

    def _add(
        self,
        text: str,
        kind: str,
        box: tuple[float, float, float, float],
        glyphs: list[tuple[str, tuple[float, float, float, float]]],
    ) -> None:
        self.texts.append(
            Lettering(
                text,
                kind,
                "",
                self._fractions(box),
                tuple(Glyph(character, self._fractions(place)) for character, place in glyphs),
            )
        )

    def _fractions(
        self, box: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        top, left, bottom, right = box
        return (
            min(1.0, max(0.0, top / self.height)),
            min(1.0, max(0.0, left / self.width)),
            min(1.0, max(0.0, bottom / self.height)),
            min(1.0, max(0.0, right / self.width)),
        )


def _edges(font: ImageFont.FreeTypeFont, text: str) -> list[float]:
    """Where every character begins, and the last one ends, in pixels from the left end."""
    edges = [0.0]
    for character in text:
        edges.append(edges[-1] + font.getlength(character))
    scale = font.getlength(text) / edges[-1]  # spreads what kerning took over the line
    return [edge * scale for edge in edges]


def ink_on(paper: Rgb, rng: random.Random) -> Rgb:
    """A colour for text that can be read on `paper`: mostly black or white, else any."""
    dark = luminance(paper) > 128
    for _attempt in range(20):
        lot = rng.random()
        if lot < 0.7:
            shade = rng.randint(0, 50)
            ink = (shade, shade, shade) if dark else (255 - shade, 255 - shade, 255 - shade)
        else:
            ends = (0, 130) if dark else (125, 255)
            ink = (rng.randint(*ends), rng.randint(*ends), rng.randint(*ends))
        if abs(luminance(ink) - luminance(paper)) > MIN_CONTRAST * 1.4:
            return ink
    return (0, 0, 0) if dark else (255, 255, 255)
