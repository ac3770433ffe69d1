"""Printing set against cells and axes: centred on a row, to the left or right of an edge, or turned
upwards along an axis.
"""

import random

from PIL import Image, ImageDraw

from minicpmv.scenes.figures.colours import Rgb
from minicpmv.scenes.scene import Glyph, Lettering
from minicpmv.scenes.text import fonts
from minicpmv.scenes.text.lettering import (
    GLYPH_ABOVE,
    GLYPH_BELOW,
    MIN_CONTRAST,
    Sheet,
    character_widths,
    luminance,
    width_of,
)

SLICE_AREA = 224 * 224  # pixels that the model sees as one slice
MAX_AREA = 9 * SLICE_AREA


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """A colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


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


class AlignedSheet(Sheet):
    """A sheet of `height` x `width` pixels that prints around points instead of on base lines."""

    def set(
        self,
        text: str,
        kind: str,
        middle: float,
        x: float,
        face: fonts.Face,
        size_px: int,
        rgb: Rgb | None = None,
        anchor: str = "l",
    ) -> Lettering:
        """Print one line with its capitals centred on the pixel row `middle`; `anchor` says whether
        `x` is its left end, its middle or its right end ("l", "m", "r").
        """
        left = x - width_of(face, size_px, text) * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor]
        capital = -fonts.load(face, size_px).getbbox("H", anchor="ls")[1]
        return self.write(text, face, size_px, left, middle + capital / 2, kind=kind, rgb=rgb)

    def set_upwards(
        self, text: str, kind: str, middle: float, x: float, face: fonts.Face, size_px: int
    ) -> Lettering:
        """Print one line turned a quarter to the left, around the point (`middle`, `x`)."""
        widths = character_widths(face, size_px, text)
        font = fonts.load(face, size_px)
        _, top, right, bottom = font.getbbox(text, anchor="ls", stroke_width=face.stroke)
        mask = Image.new("L", (int(max(right, sum(widths))) + 1, int(bottom - top) + 2))
        ImageDraw.Draw(mask).text(
            (0, -top), text, fill=255, font=font, anchor="ls", stroke_width=face.stroke
        )
        mask = mask.transpose(Image.Transpose.ROTATE_90)
        left, foot = round(x - mask.width / 2), round(middle + mask.height / 2)
        self.image.paste(self.ink, (left, foot - mask.height), mask)
        base = left - top  # the column that the letters stand on
        glyphs, start = [], float(foot)
        for character, width in zip(text, widths, strict=True):
            start, end = start - width, start
            if character != " ":
                sides = base - GLYPH_ABOVE * size_px, base + GLYPH_BELOW * size_px
                glyphs.append(Glyph(character, self.box(start, sides[0], end, sides[1])))
        box = self.box(foot - mask.height, left, foot, left + mask.width)
        lettering = Lettering(text, kind, "", box, tuple(glyphs))
        self.texts.append(lettering)
        return lettering
