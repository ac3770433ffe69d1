"""Printed lines: random strings of characters, colours in which they can be read, and a sheet that
prints them and remembers where every character went.
"""

import functools
import random
import string
from collections.abc import Sequence

from PIL import Image, ImageDraw

from minicpmv.scenes.figures.colours import Rgb
from minicpmv.scenes.scene import Box, Glyph, Lettering
from minicpmv.scenes.text import fonts, words

PRINTABLE = "".join(map(chr, range(33, 127)))
MIN_CONTRAST = 70  # least difference of luminance between ink and paper, of 255
# A character's box reaches this far above and below the base line, in ems: capitals and a little.
GLYPH_ABOVE, GLYPH_BELOW = 0.78, 0.06


def luminance(rgb: Rgb) -> float:
    """How light a colour looks, 0 to 255."""
    red, green, blue = rgb
    return 0.299 * red + 0.587 * green + 0.114 * blue


def ink_and_paper(rng: random.Random) -> tuple[Rgb, Rgb]:
    """Two colours that print is legible in: mostly dark on light, a fifth the other way round, now
    and then any two.
    """
    if rng.random() < 0.8:
        paper, ink = _shade(rng, 225, 180, 255), _shade(rng, 0, 0, 90)
        if rng.random() < 0.5:
            paper = rng.choice(((255, 255, 255), (250, 248, 240), paper))
            ink = rng.choice(((0, 0, 0), (35, 35, 40), ink))
        return (paper, ink) if rng.random() < 0.2 else (ink, paper)
    while True:
        ink, paper = _shade(rng, 0, 0, 255, 0.0), _shade(rng, 0, 0, 255, 0.0)
        lighter = luminance(paper) - luminance(ink)
        if lighter > MIN_CONTRAST + 15 or (lighter < -MIN_CONTRAST - 15 and rng.random() < 0.3):
            return ink, paper


def _shade(
    rng: random.Random, grey_from: int, any_from: int, upto: int, grey_share: float = 0.6
) -> Rgb:
    if rng.random() < grey_share:
        level = rng.randint(grey_from, upto)
        return level, level, level
    limit = upto if upto == 255 else upto + 50
    return rng.randint(any_from, limit), rng.randint(any_from, limit), rng.randint(any_from, limit)


def accent(rng: random.Random, paper: Rgb, ink: Rgb) -> Rgb:
    """Another colour that is legible on `paper`; `ink` where none is found soon."""
    for _attempt in range(10):
        rgb = rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)
        if abs(luminance(rgb) - luminance(paper)) > MIN_CONTRAST + 15:
            return rgb
    return ink


@functools.lru_cache(maxsize=1 << 18)
def _advance(face: fonts.Face, size_px: int, character: str, following: str) -> float:
    """Width of a character with the kerning before the following one."""
    font = fonts.load(face, size_px)
    return font.getlength(character + following) - (font.getlength(following) if following else 0)


def character_widths(face: fonts.Face, size_px: int, text: str) -> list[float]:
    """Advances of the characters of `text` in pixels, kerning included."""
    return [
        _advance(face, size_px, character, following)
        for character, following in zip(text, [*text[1:], ""], strict=True)
    ]


def width_of(face: fonts.Face, size_px: int, text: str) -> float:
    """How wide `text` is printed, in pixels."""
    return sum(character_widths(face, size_px, text))


def largest_size(face: fonts.Face, text: str, height: float, width: float) -> int:
    """The largest font size in pixels, at least 1, that fits `text` into a rectangle."""
    left, top, right, bottom = fonts.load(face, 64).getbbox(text, stroke_width=2 * face.stroke)
    return max(1, int(64 * min(width / max(1, right - min(left, 0)), height / (bottom - top))))


class Sheet:
    """A canvas of one paper; `texts` collects what is printed on it, in the order of printing."""

    def __init__(
        self, height: int, width: int, paper: Rgb, ink: Rgb, image: Image.Image | None = None
    ) -> None:
        self.height, self.width = height, width
        self.paper, self.ink = paper, ink
        self.image = image or Image.new("RGB", (width, height), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.texts: list[Lettering] = []

    def write(
        self,
        text: str,
        face: fonts.Face,
        size_px: int,
        left: float,
        baseline: float,
        *,
        kind: str = "line",
        rgb: Rgb | None = None,
        colour: str = "",
    ) -> Lettering:
        """Print one line that starts at `left` and stands on `baseline`, both in pixels."""
        return self.write_pieces([(text, left)], face, size_px, baseline, kind, rgb, colour)

    def write_pieces(
        self,
        pieces: Sequence[tuple[str, float]],
        face: fonts.Face,
        size_px: int,
        baseline: float,
        kind: str = "line",
        rgb: Rgb | None = None,
        colour: str = "",
    ) -> Lettering:
        """Print one line of (text, left) pieces with room between them, read with single spaces."""
        font = fonts.load(face, size_px)
        stroke = face.stroke * max(1, size_px // 32)
        baseline = round(baseline)
        glyphs: list[Glyph] = []
        boxes: list[tuple[float, float, float, float]] = []
        for text, left in pieces:
            x = round(left)
            self.draw.text(
                (x, baseline),
                text,
                fill=rgb or self.ink,
                font=font,
                anchor="ls",
                stroke_width=stroke,
            )
            box = font.getbbox(text, anchor="ls", stroke_width=stroke)
            boxes.append((baseline + box[1], x + box[0], baseline + box[3], x + box[2]))
            right: float = x
            for character, width in zip(text, character_widths(face, size_px, text), strict=True):
                start, right = right, right + width
                if character != " ":
                    glyphs.append(
                        Glyph(
                            character,
                            self.box(
                                baseline - GLYPH_ABOVE * size_px,
                                start,
                                baseline + GLYPH_BELOW * size_px,
                                right,
                            ),
                        )
                    )
        lettering = Lettering(
            " ".join(text for text, _ in pieces),
            kind,
            colour,
            self.box(
                min(box[0] for box in boxes),
                min(box[1] for box in boxes),
                max(box[2] for box in boxes),
                max(box[3] for box in boxes),
            ),
            tuple(glyphs),
        )
        self.texts.append(lettering)
        return lettering

    def box(self, top: float, left: float, bottom: float, right: float) -> Box:
        """Pixels as fractions of the sheet, cut off at its border."""
        return (
            min(max(top / self.height, 0.0), 1.0),
            min(max(left / self.width, 0.0), 1.0),
            min(max(bottom / self.height, 0.0), 1.0),
            min(max(right / self.width, 0.0), 1.0),
        )


def random_word(rng: random.Random, split: str) -> str:
    """A word of the split or, in training alone, letters in any order: they teach letters, not
    words.
    """
    lot = rng.random() if split == "train" else 1.0
    if lot < 0.15:
        text = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
    elif lot < 0.35:
        text = words.syllables(rng)
    else:
        text = rng.choice(words.words(split))
    return rng.choice((text, text, text.capitalize(), text.capitalize(), text.upper()))


def random_token(rng: random.Random, split: str) -> str:
    """A word, a number, a price, a time or, in training alone, any string of characters."""
    lot = rng.random()
    if lot < 0.4:
        return random_word(rng, split)
    if lot < 0.55:
        return "".join(rng.choices(string.digits, k=rng.randint(1, 6)))
    if lot < 0.63:
        return f"${rng.randint(0, 999)}.{rng.randint(0, 99):02d}"
    if lot < 0.7:
        return f"{rng.randint(1, 12):02d}{rng.choice('/:-.')}{rng.randint(0, 59):02d}"
    if split == "test":
        return random_word(rng, split)
    if lot < 0.85:
        return "".join(rng.choices(string.ascii_letters, k=rng.randint(1, 8)))
    return "".join(rng.choices(PRINTABLE, k=rng.randint(1, 6)))


def random_text(rng: random.Random, split: str, length: int) -> str:
    """Tokens of any sort with a space after each, together at least `length` characters."""
    text = ""
    while len(text) < length:
        text += random_token(rng, split) + " "
    return text
