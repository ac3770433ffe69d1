"""Draw plain figures on a plain or shaded ground, sometimes degraded."""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from minicpmv.scenes import colours, fonts, shapes, words
from minicpmv.scenes.scene import Figure, Glyph, Lettering, Scene

KINDS = {"few": 38.0, "many": 42.0}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GAP = 0.02  # least distance between the boxes of two figures, as a fraction of the short side
_PixelBox = tuple[float, float, float, float]  # top, left, bottom, right


def paint(
    rng: random.Random,
    split: str,
    seed: int,
    kind: str,
    size: tuple[int, int] | None = None,
    max_figures: int = 7,
) -> Scene:
    """Draw figures: "few" (one to three), "many" (up to `max_figures`, some alike) or, not among
    `KINDS`, "word": a large word or number with at most two figures beside it.

    `size` is (height, width) in pixels; None draws lots.
    """
    drawn_size = _sample_size(rng)
    return _Painter(rng, size or drawn_size).paint(split, seed, kind, max_figures)


def _sample_size(rng: random.Random) -> tuple[int, int]:
    """Height and width in pixels: half of them the model's own 224, the rest larger, smaller or
    oblong.
    """
    lot = rng.random()
    if lot < 0.35:
        return 224, 224
    if lot < 0.6:
        return 448, 448
    side, ratio = rng.uniform(170, 440), rng.uniform(0.57, 1.75)
    return round(side / ratio**0.5), round(side * ratio**0.5)


class _Painter:
    """The canvas of one scene and the boxes already taken on it."""

    def __init__(self, rng: random.Random, size: tuple[int, int]) -> None:
        self.rng = rng
        self.height, self.width = size
        self.short = min(size)
        self.taken: list[_PixelBox] = []

    def paint(self, split: str, seed: int, kind: str, max_figures: int) -> Scene:
        rng = self.rng
        background, self.ground = self._sample_ground()
        self.image = self._shaded_ground()
        self.draw = ImageDraw.Draw(self.image)
        # What can be seen on this ground.
        self.visible = [
            name
            for name in colours.COLOURS
            if name != background
            and all(
                colours.distance(anchor, self.ground) > colours.MIN_DISTANCE
                for anchor in colours.COLOURS[name]
            )
        ]
        texts: list[Lettering] = []
        figures: list[Figure] = []
        if kind == "word" and (text := self._letter(split)):
            texts.append(text)
        if kind == "word":
            total = rng.choice((0, 0, 0, 1, 2))
        elif kind == "few":
            total = rng.randint(1, 3)
        else:
            total = rng.randint(2, max_figures)
        figures += self._figures(min(total, max_figures), alike=kind == "many")
        return Scene(split, seed, self._degrade(), background, tuple(figures), tuple(texts), kind)

    def _sample_ground(self) -> tuple[str, colours.Rgb]:
        rng = self.rng
        if rng.random() < 0.3:
            return "pale", rng.choice(colours.TINTS)
        name = rng.choice(colours.PLAIN_BACKGROUNDS)
        return name, colours.sample_rgb(name, rng)

    def _shaded_ground(self) -> Image.Image:
        size = (self.width, self.height)
        if self.rng.random() < 0.8:
            return Image.new("RGB", size, self.ground)
        change = self.rng.choice((-1, 1)) * self.rng.randint(10, 30)
        end = tuple(min(255, max(0, channel + change)) for channel in self.ground)
        ramp = Image.linear_gradient("L")  # 256 x 256, black at the top
        if self.rng.random() < 0.5:
            ramp = ramp.transpose(Image.Transpose.ROTATE_90)
        return Image.composite(
            Image.new("RGB", size, end), Image.new("RGB", size, self.ground), ramp.resize(size)
        )

    def _figures(self, total: int, alike: bool) -> list[Figure]:
        rng = self.rng
        # Scenes for counting repeat a few shapes in a few colours; others draw freely.
        names = rng.sample(list(shapes.SHAPES), rng.choice((1, 2, 2, 3)) if alike else 4)
        paints = rng.sample(
            self.visible, min(len(self.visible), rng.choice((1, 2, 2, 3)) if alike else 5)
        )
        # Half the diameter, as a fraction of the short side: fewer figures may be larger.
        largest = {1: 0.36, 2: 0.27, 3: 0.23, 4: 0.2}.get(total, 0.17)
        figures: list[Figure] = []
        for _ in range(total):
            shape, colour = rng.choice(names), rng.choice(paints)
            for _attempt in range(40):
                radius = self.short * rng.uniform(0.085, largest)
                y = rng.uniform(radius, self.height - radius)
                x = rng.uniform(radius, self.width - radius)
                turn = rng.uniform(-1, 1) * shapes.MAX_TURN[shape] * (rng.random() < 0.7)
                outline = shapes.place(shape, (y, x), radius, turn)
                box = (
                    min(y for y, _ in outline),
                    min(x for _, x in outline),
                    max(y for y, _ in outline),
                    max(x for _, x in outline),
                )
                if self._is_free(box):
                    figures.append(self._figure(shape, colour, outline, box))
                    break
        return figures

    def _is_free(self, box: _PixelBox) -> bool:
        gap = GAP * self.short
        top, left, bottom, right = box
        if top < 1 or left < 1 or bottom > self.height - 1 or right > self.width - 1:
            return False
        return all(
            bottom + gap < other[0]
            or right + gap < other[1]
            or top - gap > other[2]
            or left - gap > other[3]
            for other in self.taken
        )

    def _figure(
        self, shape: str, colour: str, outline: list[tuple[float, float]], box: _PixelBox
    ) -> Figure:
        self.taken.append(box)
        rgb = self._sample_visible(colour)
        self.draw.polygon([(x, y) for y, x in outline], fill=rgb)
        if shape != "ring" and self.rng.random() < 0.15:  # a rim, darker than the body
            rim = tuple(round(0.6 * channel) for channel in rgb)
            width = max(1, round(0.008 * self.short))
            self.draw.line([(x, y) for y, x in [*outline, outline[0]]], fill=rim, width=width)
        return Figure(
            shape,
            colour,
            self._fraction((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
            (*self._fraction(box[0], box[1]), *self._fraction(box[2], box[3])),
            tuple(self._fraction(y, x) for y, x in outline),
        )

    def _sample_visible(self, colour: str) -> colours.Rgb:
        """A shade of `colour` that stands out from the ground."""
        for _attempt in range(8):
            rgb = colours.sample_rgb(colour, self.rng)
            if colours.distance(rgb, self.ground) > 0.8 * colours.MIN_DISTANCE:
                break
        return rgb

    def _fraction(self, y: float, x: float) -> tuple[float, float]:
        return y / self.height, x / self.width

    def _letter(self, split: str) -> Lettering | None:
        """Print a word or a number large, where it fits; None when the chosen one does not fit."""
        rng = self.rng
        text, text_kind = self._sample_text(split)
        face = rng.choice(fonts.faces(split))
        font = fonts.load(face, 100)
        left, top, right, bottom = font.getbbox(text)
        # As large as the picture allows, or down to a half of that, but at most a third of its
        # height.
        fit = min(0.9 * self.width / (right - left), 0.36 * self.height / (bottom - top))
        size_px = max(10, int(100 * fit * rng.uniform(0.55, 1.0)))
        font = fonts.load(face, size_px)
        stroke = face.stroke * max(1, size_px // 32)
        left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
        if right - left >= self.width - 4 or bottom - top >= self.height - 4:
            return None
        x = rng.uniform(2, self.width - (right - left) - 2) - left
        y = rng.uniform(2, self.height - (bottom - top) - 2) - top
        colour = rng.choice(self.visible)
        rgb = self._sample_visible(colour)
        self.draw.text((x, y), text, fill=rgb, font=font, stroke_width=stroke)
        box = (y + top, x + left, y + bottom, x + right)
        self.taken.append(box)
        edges = [x + font.getlength(text[:i]) for i in range(len(text) + 1)]
        glyphs = tuple(
            Glyph(
                character,
                (*self._fraction(box[0], edges[i]), *self._fraction(box[2], edges[i + 1])),
            )
            for i, character in enumerate(text)
        )
        return Lettering(
            text,
            text_kind,
            colour,
            (*self._fraction(box[0], box[1]), *self._fraction(box[2], box[3])),
            glyphs,
        )

    def _sample_text(self, split: str) -> tuple[str, str]:
        rng = self.rng
        lot = rng.random()
        if lot < 0.35:
            first = rng.choice("123456789")
            return first + "".join(rng.choices("0123456789", k=rng.randint(0, 3))), "number"
        if split == "train" and lot < 0.6:  # letters in any order teach letters, not words
            text = "".join(rng.choices(LETTERS, k=rng.randint(1, 5)))
        else:
            text = rng.choice([word for word in words.words(split) if len(word) <= 6])
        return rng.choice((text.upper(), text.upper(), text.lower(), text.title())), "word"

    def _degrade(self) -> Image.Image:
        rng, image = self.rng, self.image
        if rng.random() < 0.12:
            image = image.filter(
                ImageFilter.GaussianBlur(rng.uniform(0.003, 0.007) * self.short / 2)
            )
        if rng.random() < 0.15:
            generator = np.random.default_rng(rng.getrandbits(32))
            noise = generator.standard_normal((self.height, self.width, 1), dtype=np.float32)
            noise *= rng.uniform(2, 9)
            pixels = np.asarray(image) + noise.astype(np.int16)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        return image
